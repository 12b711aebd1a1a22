"""Servers that are told to end, or are killed, at whatever moment."""

import json
import os
import random
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from pensieve.bench.client import stream
from pensieve.bench.turns import words

from ..budget import LONG, trials
from ..processes import wait_for_end
from .figures import Figures, count_told
from .plain_server import Ending, PlainServer, plain_server
from .questions import CANARY, GOLDEN, ask_canary
from .streaming_load import BROKEN, CLEAN_END, COMPLETE, ERROR, HONEST, StreamingLoad

GRACE_S = 3
"""Seconds that the server gives answers under way, and MARGIN_S more to end."""

MARGIN_S = 2

LOAD_S = 8
"""Seconds in which a server has surely begun to load its model on a machine with nothing else to do."""

KINDS = {
    "SIGTERM": (signal.SIGTERM,),
    "SIGINT": (signal.SIGINT,),
    "SIGINT twice": (signal.SIGINT, signal.SIGINT),
    "SIGHUP": (signal.SIGHUP,),
}

ENDED_BY_SIGNAL = {-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, 130}
"""Statuses of a server that had not begun to serve."""


def test_a_stop_under_load_gives_every_stream_an_honest_end(tmp_path: Path, figures: Figures) -> None:
    num_trials, num_streams = trials(1, 1, "PENSIEVE_FAULTS_STOPS", long=50), trials(8, 8, long=32)
    asked = "exit code 0, no traceback, no process left, no stream without an honest end"
    stops = figures.begin(42, "SIGTERM under streams", asked)
    asked = f"ended within {GRACE_S + MARGIN_S} s; 529 at once (< 0.5 s)"
    times = figures.begin(42, "SIGTERM under streams: times", asked)
    ends: Counter[str] = Counter()
    good, slowest_s, late_s = 0, 0.0, 0.0
    for number in range(num_trials):
        with plain_server(tmp_path) as server:
            server.wait_until_healthy()
            load = StreamingLoad(server.port, num_streams)
            load.wait_until_streaming()
            time.sleep(random.Random(number).random())
            load.told()
            ending = server.tell(signal.SIGTERM)
            load.end()
        ends += load.ends
        slowest_s, late_s = max(slowest_s, ending.took_s), max(late_s, load.late_s)
        good += ending.code == 0 and ending.is_clean and set(load.ends) <= HONEST
    assert ends[COMPLETE] + ends[ERROR] + ends[BROKEN] >= num_streams
    times.note(f"{slowest_s:.1f} s; {late_s:.2f} s", slowest_s < GRACE_S + MARGIN_S and late_s < 0.5)
    told = f"{good} of {count_told(num_trials, 50)}; {num_streams} streams each: {ends[COMPLETE]} complete, "
    told += (
        f"{ends[ERROR]} with an error event, {ends[BROKEN]} broken, {ends[CLEAN_END]} ended as if complete"
    )
    stops.check(told, good == num_trials)


@pytest.mark.skipif(not LONG, reason="starts a server for each; `make faults` runs it")
@pytest.mark.parametrize("state", ["loading", "prefill", "idle", "saving"])
def test_signals_end_a_server_in_any_state(state: str, tmp_path: Path, figures: Figures) -> None:
    asked = "code 0, or the signal's while loading; no traceback, no process left"
    figure = figures.begin(43, f"{', '.join(KINDS)}: {state}", asked)
    num_trials = trials(1, 1, "PENSIEVE_FAULTS_SIGNALS", long=20)
    endings: list[Ending] = []
    for name in KINDS:
        for number in range(num_trials):
            (folder := tmp_path / f"{name}-{number}").mkdir()
            endings.append(end_in(state, folder, KINDS[name], random.Random(number)))
    codes = Counter(ending.code for ending in endings)
    allowed = {0} | (ENDED_BY_SIGNAL if state == "loading" else set())
    good = sum(ending.is_clean and ending.code in allowed for ending in endings)
    slowest = f"slowest {max(ending.took_s for ending in endings):.1f} s"
    told = f"{good} of {count_told(len(endings), 20 * len(KINDS))}; codes {dict(codes)}; {slowest}"
    figure.check(told, good == len(endings))


def end_in(state: str, folder: Path, numbers: tuple[signal.Signals, ...], rng: random.Random) -> Ending:
    """Start a server, bring it into a state, and send it signals."""
    flags = ("--disk-cache-gb", "1", "--cache-dir", str(folder / "kv")) if state == "saving" else ()
    with plain_server(folder, *flags) as server:
        if state == "loading":
            # Before its first line Python still imports, and tells of a Ctrl-C in its own way.
            wait_for_first_line(server)
            time.sleep(rng.random() * LOAD_S)
            return server.tell(*numbers, gap_s=0.1)
        server.wait_until_healthy()
        load = None
        if state == "prefill":
            load = StreamingLoad(server.port, 4, words(rng, 3000))
            time.sleep(rng.random())
        elif state == "saving":
            for _ in range(3):
                stream(server.url, CANARY | {"messages": [{"role": "user", "content": words(rng, 1500)}]})
        ending = server.tell(*numbers, gap_s=0.1)
        if load is not None:
            load.end()
            assert set(load.ends) <= HONEST
        return ending


def test_signals_that_ask_for_no_end_end_nothing(tmp_path: Path, figures: Figures) -> None:
    """SIGHUP ended a server that loaded its model, also one whose keys are in a file."""
    name = "SIGHUP with a file of keys, SIGPIPE; loading and serving"
    figure = figures.begin(43, name, "the server goes on")
    keys = tmp_path / "keys"
    keys.write_text("ann secret-of-ann\n")
    keys.chmod(0o600)
    num_signals = 0
    with plain_server(tmp_path, "--api-keys-file", str(keys)) as server:
        wait_for_first_line(server)
        for number in (signal.SIGHUP, signal.SIGPIPE) * 10:
            server.process.send_signal(number)
            num_signals += 1
            time.sleep(0.02)
        server.wait_until_healthy()
        for number in (signal.SIGHUP, signal.SIGPIPE) * 10:
            server.process.send_signal(number)
            num_signals += 1
        answer = ask_canary(server.url, {"x-api-key": "secret-of-ann"})
        ending = server.tell(signal.SIGTERM)
    told = f"{num_signals} sent; answer {'as ever' if answer == GOLDEN else answer}; code {ending.code}"
    reached = answer == GOLDEN and ending.code == 0 and ending.is_clean
    figure.check(told, reached)


def wait_for_first_line(server: PlainServer) -> None:
    """Wait until the server says who it is; it has yet to load its model."""
    for _ in range(6000):
        if "pensieve " in server.log_text():
            return
        assert server.process.poll() is None, server.log_text()
        time.sleep(0.01)
    raise AssertionError("the server says nothing")


@pytest.mark.skipif(not LONG, reason="two starts; tests/e2e/test_restart.py kills a server as well")
def test_a_server_after_a_killed_one_answers_as_ever(tmp_path: Path, figures: Figures) -> None:
    asked = "the next server answers as ever; no process left; no stream ended as if complete"
    kills = figures.begin(44, "kill -9 under 8 streams", asked)
    asked = "it serves within the first start's time + 2 s"
    starts = figures.begin(44, "kill -9 under load: the next start", asked)
    num_trials, good, slowest_s, first_s = trials(1, 1, "PENSIEVE_FAULTS_KILLS", long=50), 0, 0.0, 0.0
    flags = ("--disk-cache-gb", "1", "--cache-dir", str(tmp_path / "kv"))
    left: list[Path] = []
    for number in range(num_trials + 1):
        begun_s = time.monotonic()
        with plain_server(tmp_path, *flags) as server:
            server.wait_until_healthy()
            start_s = time.monotonic() - begun_s
            first_s, slowest_s = first_s or start_s, max(slowest_s, start_s)
            good += number > 0 and ask_canary(server.url) == GOLDEN and "Traceback" not in server.log_text()
            left += (tmp_path / "kv").rglob("*.part")
            load = StreamingLoad(server.port, 8, words(random.Random(number), 600))
            load.wait_until_streaming()
            time.sleep(random.Random(number).random())
            children = server.children
            server.process.kill()
            server.process.wait()
            load.end()
            for child in children:
                wait_for_end(child)
        assert set(load.ends) <= HONEST, load.ends
    told = f"{good} of {count_told(num_trials, 50)}; {len(left)} unfinished files left after a start"
    starts.note(f"{first_s:.1f} s, then at most {slowest_s:.1f} s", slowest_s < first_s + 2)
    kills.check(told, good == num_trials and not left)


@pytest.mark.skipif(not LONG, reason="takes real time; tests/engine/test_hung_process.py tells its own")
def test_a_stopped_engine_is_noticed_and_replaced(tmp_path: Path, figures: Figures) -> None:
    stops = figures.begin(45, "SIGSTOP of the engine's process", "dumped, computed again, exact")
    times = figures.begin(45, "the same: times", "503 within 10 s; replaced within 60 s")
    noticed, replaced, good = list[float](), list[float](), 0
    num_trials = 5
    for number in range(num_trials):
        with plain_server(tmp_path) as server:
            server.wait_until_healthy()
            load = StreamingLoad(server.port, 4 * (number % 2), repeats=1)
            if number % 2:
                load.wait_until_streaming()
            (engine,) = server.children
            begun_s = time.monotonic()
            os.kill(engine, signal.SIGSTOP)
            while health(server) == 200:
                assert time.monotonic() - begun_s < 300, server.log_text()
                time.sleep(0.1)
            noticed.append(time.monotonic() - begun_s)
            while health(server) != 200 or server.children == [engine]:
                assert time.monotonic() - begun_s < 300, server.log_text()
                time.sleep(0.1)
            replaced.append(time.monotonic() - begun_s)
            load.end()
            is_dumped = "it is killed. Where it stood:" in server.log_text()
            good += set(load.ends) <= {COMPLETE} and is_dumped and ask_canary(server.url) == GOLDEN
    reached = max(noticed) < 10 and max(replaced) < 60
    times.note(f"{max(noticed):.1f} s; {max(replaced):.1f} s", reached)
    stops.check(f"{good} of {num_trials} (idle and under load)", good == num_trials)


def health(server: PlainServer) -> int:
    """Return the status of /health."""
    try:
        with urllib.request.urlopen(f"{server.url}/health", timeout=10) as answer:
            json.load(answer)
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
