"""What keeping sessions at their servers is worth: two servers behind HAProxy, by session and in turns.

    python -m pensieve.bench.micro.replicas --sessions 8 --turns 4

Runs from a checkout, and wants `haproxy` on the path. Each way starts two servers with the demo model anew.
Then, by session, one of them is killed under load: printed are the turns that failed, those in flight at the
killed server, and how many sessions went on.
"""

import argparse
import os
import random
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from ..client import Timing, read_metric, stream
from ..filler_words import words
from ..report import table
from ..server_process import ServerProcess, free_port

CONFIG = Path(__file__).parents[2] / "deploy" / "replicas" / "haproxy.cfg"
PROMPT_CHARS, TURN_CHARS = 6000, 400
START_S = 120


class ReplicaFleet(NamedTuple):
    """Two servers and the proxy before them."""

    url: str
    servers: list[ServerProcess]
    urls: list[str]


@dataclass
class ReplicaSession:
    """One session's conversation. failed: the errors of its turns."""

    name: str
    rng: random.Random
    messages: list[dict[str, Any]] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def turn(self, url: str) -> None:
        """Send one turn; one that fails is sent again, as a client does."""
        length = TURN_CHARS if self.messages else PROMPT_CHARS
        self.messages.append({"role": "user", "content": words(self.rng, length)})
        body = {"model": "demo", "max_tokens": 16, "messages": self.messages}
        for _ in range(3):
            try:
                timing = stream(url, body, 120, {"x-claude-code-session-id": self.name})
            except (OSError, RuntimeError, KeyError, ValueError) as error:
                self.failed.append(f"{type(error).__name__}: {error}"[:80])
                continue
            self.timings.append(timing)
            self.messages.append({"role": "assistant", "content": timing.text or "."})
            return


@contextmanager
def running_fleet(by_session: bool) -> Iterator[ReplicaFleet]:
    """Start two servers and HAProxy with the configuration of deploy/, or with one that takes turns."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        ports, port = [free_port(), free_port()], free_port()
        command = [
            sys.executable,
            "-m",
            "pensieve",
            "serve",
            "--model",
            "demo",
            "--disk-cache-gb",
            "0",
            "--port",
        ]
        servers = [
            stack.enter_context(ServerProcess([*command, str(each)], os.environ, folder / f"{each}.log"))
            for each in ports
        ]
        text = CONFIG.read_text(encoding="utf-8").replace("bind :8080", f"bind 127.0.0.1:{port}")
        for old, new in zip(("127.0.0.1:7777", "127.0.0.1:7778"), ports, strict=True):
            text = text.replace(old, f"127.0.0.1:{new}")
        text = text.replace("/tmp/", f"{folder}/")
        if not by_session:
            text = text.replace(
                "balance hash var(txn.session)\n    hash-type consistent", "balance roundrobin"
            )
        (folder / "proxy.cfg").write_text(text, encoding="utf-8")
        urls = [f"http://127.0.0.1:{each}" for each in ports]
        for each in urls:
            _wait_for(each)
        proxy = ["haproxy", "-db", "-f", str(folder / "proxy.cfg")]
        stack.enter_context(ServerProcess(proxy, os.environ, folder / "proxy.log"))
        url = f"http://127.0.0.1:{port}"
        _wait_for(url)
        yield ReplicaFleet(url, servers, urls)


def _wait_for(url: str) -> None:
    for _ in range(START_S * 10):
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            threading.Event().wait(0.1)
    raise RuntimeError(f"{url} does not answer")


def take_turns(fleet: ReplicaFleet, sessions: list[ReplicaSession], num_turns: int) -> None:
    """Have all sessions send their turns side by side."""
    with ThreadPoolExecutor(len(sessions)) as pool:
        list(pool.map(lambda session: [session.turn(fleet.url) for _ in range(num_turns)], sessions))


def cached_share(sessions: list[ReplicaSession]) -> float:
    """Return the share of the prompt tokens after each session's first turn that were cached."""
    later = [timing for session in sessions for timing in session.timings[1:]]
    cached = sum(timing.cached_tokens for timing in later)
    return cached / max(1, cached + sum(timing.input_tokens for timing in later))


def kill_one(fleet: ReplicaFleet, sessions: list[ReplicaSession], num_turns: int) -> str:
    """Kill one server while all sessions are at work, and say what became of them."""
    before = [len(session.timings) for session in sessions]
    worker = threading.Thread(target=take_turns, args=(fleet, sessions, num_turns))
    worker.start()
    name = "pensieve_num_requests_running"
    num_running = 0.0
    while not num_running and worker.is_alive():
        num_running = read_metric(fleet.urls[0], name)
        num_running += read_metric(fleet.urls[0], name.replace("running", "waiting"))
    fleet.servers[0].kill()
    worker.join()
    failed = [error for session in sessions for error in session.failed]
    done = sum(len(s.timings) - count == num_turns for s, count in zip(sessions, before, strict=True))
    return (
        f"killed with {num_running:.0f} requests in flight: {len(failed)} turns failed and were sent again, "
        f"{done} of {len(sessions)} sessions had all their turns {sorted(set(failed))}"
    )


def main() -> None:
    """Measure both ways and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--turns", type=int, default=4)
    options = parser.parse_args()
    rows, killed = [], ""
    for by_session in (True, False):
        sessions = [ReplicaSession(f"session-{i}", random.Random(i)) for i in range(options.sessions)]
        with running_fleet(by_session) as fleet:
            take_turns(fleet, sessions, options.turns)
            ends = sorted(timing.first_token_s for session in sessions for timing in session.timings[1:])
            if not ends:
                raise RuntimeError(f"no second turn has had an answer: {sessions[0].failed}")
            num_failed = sum(len(session.failed) for session in sessions)
            way = "by session" if by_session else "in turns"
            rows.append(
                [way, f"{cached_share(sessions):.1%}", f"{ends[len(ends) // 2]:.2f}", str(num_failed)]
            )
            if by_session:
                killed = kill_one(fleet, sessions, options.turns)
    print(table(["way", "cached after the first turn", "TTFT p50 (s)", "failed"], rows))
    print(killed)


if __name__ == "__main__":
    main()
