"""A real server in a process of its own, and the standing probes: what must be as before after every test."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..e2e.conftest import wait_until_healthy
from .figures import Figures
from .probed_command import FAULTY_BUILD, Holdings
from .questions import GOLDEN, ask_canary

BACK_S = 2
"""Seconds after a test within which all is as before."""

PATIENCE_S = 20
"""Seconds that are waited for it: a slow machine is no fault. The table says which it was."""

SAME = ("pid", "running", "waiting", "blocks_held", "blocks_missing", "tasks", "fds", "threads", "state")


@dataclass(frozen=True)
class WatchedServer:
    """A running server."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    socket: str

    def look(self) -> Holdings:
        """Return what the server holds, and how late its event loop was since the last look."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(60)
            probe.connect(self.socket)
            text = b"".join(iter(lambda: probe.recv(2**16), b""))
        return Holdings(**json.loads(text))

    def warm_up(self) -> None:
        """Have the server take what it keeps: memory of the first requests, threads of its pools."""
        with ThreadPoolExecutor(16) as clients:
            assert set(clients.map(lambda _: ask_canary(self.url), range(32))) == {GOLDEN}

    def log_text(self) -> str:
        """Return all that the server has logged."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    @contextmanager
    def undisturbed(
        self, figures: Figures, number: int, tried: str, *, lag_ms: float = 50, same_engine: bool = True
    ) -> Iterator[None]:
        """Hold the standing probes against a block; note a row. The block closes its own connections.

        lag_ms: the longest that the event loop may be late; a time, for which no test fails.
        same_engine: whether the engine's process stays.
        """
        asked = (
            f"loop late by < {lag_ms:.0f} ms; all as before within {BACK_S} s; RSS of both processes +< 5 %"
        )
        figure = figures.begin(number, f"{tried}: standing probes", asked)
        assert ask_canary(self.url) == GOLDEN
        before, logged = self.settled(), len(self.log_text())
        yield
        ended_s = time.monotonic()
        after = self.look()
        lag_s = after.lag_s
        while not is_same(before, after):
            assert time.monotonic() - ended_s < PATIENCE_S, (before, after)
            time.sleep(0.05)
            after = self.look()
            lag_s = max(lag_s, after.lag_s)
        back_s = time.monotonic() - ended_s
        assert "Traceback" not in self.log_text()[logged:], self.log_text()[logged:]
        assert after.engine_pid == before.engine_pid or not same_engine
        assert ask_canary(self.url) == GOLDEN
        rss = growth(before.rss, after.rss)
        engine_rss = growth(before.engine_rss, after.engine_rss)
        reached = lag_s * 1000 < lag_ms and back_s < BACK_S and max(rss, engine_rss) < 0.05
        told = f"{1000 * lag_s:.0f} ms; {back_s:.1f} s; {rss:+.1%}, of the engine {engine_rss:+.1%}"
        figure.note(told, reached)

    def settled(self) -> Holdings:
        """Look until nothing has changed for two looks: what tests before have closed takes a moment."""
        last = self.look()
        for _ in range(100):
            time.sleep(0.1)
            this = self.look()
            if is_same(last, this) and not this.running + this.waiting:
                return this
            last = this
        raise AssertionError(f"the server does not come to rest: {last}")


def growth(before: int, after: int) -> float:
    """Return by which share memory has grown; 0 where nothing tells how much there was."""
    return after / before - 1 if before else 0.0


def is_same(before: Holdings, after: Holdings) -> bool:
    """Return whether a server holds what it held before."""
    return all(getattr(before, name) == getattr(after, name) for name in SAME)


@contextmanager
def watched_server(
    folder: Path, *flags: str, model: str = "demo", faulty_build: str = "", ends_with: int | None = 0
) -> Iterator[WatchedServer]:
    """Run `pensieve serve` with a probe, without disk tier unless the flags say so.

    folder: where its log and its socket lie.
    faulty_build: see FAULTY_BUILD.
    ends_with: the status with which it ends when it is told to; None: it ends by itself.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path, log = str(folder / "probe"), folder / "log"
    disk = () if "--disk-cache-gb" in flags else ("--disk-cache-gb", "0")
    command = [sys.executable, "-m", "pensieve.tests.faults.probed_command", path, "serve", "--model", model]
    environment = os.environ | ({FAULTY_BUILD: faulty_build} if faulty_build else {})
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port), *disk, *flags],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_healthy(url, process)
        server = WatchedServer(url, port, process, log, path)
        if not faulty_build:
            server.warm_up()
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
    if ends_with is not None:
        assert process.returncode == ends_with, log.read_text(encoding="utf-8", errors="replace")
