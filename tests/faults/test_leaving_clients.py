"""Clients that leave, and processes that are killed, at random points of streams."""

import http.client
import json
import os
import random
import signal
import socket
import struct
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import anthropic
import pytest

from pensieve.bench.client import stream
from pensieve.bench.turns import words

from ..budget import LONG, trials
from .figures import Figures, count_told
from .plain_server import plain_server
from .questions import ALLOWED_S, counting
from .watched_server import WatchedServer

NUM_LEAVING, NUM_STAYING = 16, 4
"""Clients at a time."""

MAX_WAIT_S = 0.4
"""Longest time after which a client leaves; in it requests wait, prompts are computed and answers begun."""

LONG_ANSWER = 40
"""Numbers in an answer in the midst of which something happens."""


def leave(port: int, seed: int) -> None:
    """Send a request or its beginning, read some of the answer, and close or reset the connection."""
    rng = random.Random(seed)
    text = "Count from 1 to 150. " + words(rng, rng.choice([10, 200, 3000]))
    body = {"model": "claude-x", "max_tokens": 400, "messages": [{"role": "user", "content": text}]}
    sent = json.dumps(body | {"stream": rng.random() < 0.7}).encode()
    head = f"POST /v1/messages HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
    whole = f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent
    if rng.random() < 0.2:
        whole = whole[: rng.randrange(len(whole))]
    with socket.create_connection(("127.0.0.1", port), ALLOWED_S) as connection:
        connection.sendall(whole)
        if rng.random() < 0.5:
            time.sleep(rng.random() * MAX_WAIT_S)
        else:  # whatever has come by then stays unread
            connection.settimeout(MAX_WAIT_S)
            with suppress(TimeoutError):
                connection.recv(rng.randrange(1, 2000))
        if rng.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Survivors:
    """Clients that stay and ask until the others are done. differing: answers that are not those of alone."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._alone = {number: self._ask(number) for number in range(2, 2 + 2 * NUM_STAYING)}
        self._others_left = threading.Event()
        self.num_answers = 0
        self.differing: list[str] = []
        self._threads = [threading.Thread(target=self._ask_on, args=(n,)) for n in range(NUM_STAYING)]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Wait for the last answers."""
        self._others_left.set()
        for thread in self._threads:
            thread.join(ALLOWED_S)
            assert not thread.is_alive()

    def _ask(self, number: int) -> str:
        return stream(self._url, counting(number, count=6), ALLOWED_S).text

    def _ask_on(self, number: int) -> None:
        rng = random.Random(number)
        while not self._others_left.is_set():
            asked = rng.choice(list(self._alone))
            try:
                answer = self._ask(asked)
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                answer = repr(error)
            self.num_answers += 1
            if answer != self._alone[asked]:
                self.differing.append(answer)


def test_disconnects_leave_nothing_behind_and_others_exact(server: WatchedServer, figures: Figures) -> None:
    asked = "KV, places and tasks as before; the others' answers those of alone"
    figure = figures.begin(11, "disconnects (closed and reset) at random points", asked)
    num_clients = trials(32, 32, "PENSIEVE_FAULTS_DISCONNECTS", long=1000)
    survivors = Survivors(server.url)
    with server.undisturbed(figures, 11, "disconnects"):
        survivors.start()
        with ThreadPoolExecutor(NUM_LEAVING) as clients:
            list(clients.map(leave, [server.port] * num_clients, range(num_clients)))
        survivors.end()
    assert survivors.num_answers >= NUM_STAYING
    num_good = survivors.num_answers - len(survivors.differing)
    told = f"{count_told(num_clients, 1000)} disconnects; {num_good} of {survivors.num_answers} answers exact"
    figure.check("; ".join([told, *survivors.differing[:1]]), not survivors.differing)


OF_THE_SDK = ("anthropic", "httpx", "httpx2")
"""Packages whose errors the SDK raises."""

COMPLETE, RAISED, SILENT, OTHER = "complete", "raised by the SDK", "cut off in silence", "with another text"


class SdkStreams:
    """Streams of Anthropic's SDK, and how they ended."""

    def __init__(self, url: str, num_streams: int, alone: dict[int, str]) -> None:
        self.ends: Counter[str] = Counter()
        self._url = url
        self._alone = alone
        self._open = 0
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._read, args=(n,)) for n in range(num_streams)]
        for thread in self._threads:
            thread.start()

    def wait_until_open(self, count: int) -> None:
        """Wait until so many streams have had an event and no end."""
        for _ in range(ALLOWED_S * 100):
            if self._open >= count:
                return
            time.sleep(0.01)
        raise AssertionError(f"never are {count} streams open")

    def end(self) -> None:
        """Wait until all streams have ended."""
        for thread in self._threads:
            thread.join(2 * ALLOWED_S)
            assert not thread.is_alive(), "a stream has no end"

    def _read(self, number: int) -> None:
        asked = 2 + number % len(self._alone)
        http_client = anthropic.DefaultHttpxClient(verify=False)  # or each reads all certificates
        client = anthropic.Anthropic(
            base_url=self._url, api_key="any", max_retries=0, timeout=ALLOWED_S, http_client=http_client
        )
        has_begun = False
        with client:
            try:
                with client.messages.stream(**counting(asked, count=LONG_ANSWER)) as events:
                    for _ in events:
                        with self._lock:
                            self._open += not has_begun
                        has_begun = True
                    message = events.get_final_message()
                    text = "".join(block.text for block in message.content if block.type == "text")
                    end = COMPLETE if text == self._alone[asked] else OTHER
                    end = end if message.stop_reason else SILENT
            except Exception as error:
                if type(error).__module__.partition(".")[0] not in OF_THE_SDK:
                    raise
                end = RAISED
        with self._lock:
            self._open -= has_begun
            self.ends[end] += 1


def test_no_stream_is_cut_off_in_silence_when_the_engine_is_killed(
    server: WatchedServer, figures: Figures
) -> None:
    figure = figures.begin(
        17, "the engine's process killed at random points", "complete and exact, or the SDK raises"
    )
    num_streams, num_open = 16, 0
    num_trials = trials(1, 1, "PENSIEVE_FAULTS_ENGINE_KILLS", long=13)
    alone = {number: answer_alone(server.url, number) for number in range(2, 10)}
    ends: Counter[str] = Counter()
    with server.undisturbed(figures, 17, "the engine killed", same_engine=False):
        for number in range(num_trials):
            streams = SdkStreams(server.url, num_streams, alone)
            streams.wait_until_open(random.Random(number).randint(1, num_streams // 2))
            before = server.look()
            os.kill(before.engine_pid, signal.SIGKILL)
            streams.end()
            ends += streams.ends
            num_open += before.running
            assert before.running, "the engine was killed while it computed"
            wait_for_another_engine(server, before.engine_pid)
    told = f"{count_told(num_trials, 13)} kills, {num_streams} streams each, {num_open} of which ran: "
    told += told_of(ends)
    figure.check(told, set(ends) <= {COMPLETE, RAISED})


def answer_alone(url: str, number: int) -> str:
    """Return the answer that a stream is to have."""
    return stream(url, counting(number, count=LONG_ANSWER), ALLOWED_S).text


def wait_for_another_engine(server: WatchedServer, pid: int) -> None:
    """Wait until the engine's process is another one."""
    for _ in range(ALLOWED_S * 10):
        if server.look().engine_pid != pid:
            return
        time.sleep(0.1)
    raise AssertionError("the engine is the one that was killed")


@pytest.mark.skipif(not LONG, reason="a server of its own; test_stops.py's ends under streams")
def test_no_stream_is_cut_off_in_silence_when_the_server_is_killed(tmp_path: Path, figures: Figures) -> None:
    figure = figures.begin(
        17, "the server's process killed among streams", "complete and exact, or the SDK raises"
    )
    num_streams = 32
    with plain_server(tmp_path) as server:
        server.wait_until_healthy()
        alone = {number: answer_alone(server.url, number) for number in range(2, 10)}
        streams = SdkStreams(server.url, num_streams, alone)
        streams.wait_until_open(num_streams // 2)
        server.process.kill()
        streams.end()
    assert streams.ends[RAISED]
    figure.check(
        f"1 kill, {num_streams} streams: {told_of(streams.ends)}", set(streams.ends) <= {COMPLETE, RAISED}
    )


def told_of(ends: Counter[str]) -> str:
    """Return how many streams ended in which way."""
    return ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
