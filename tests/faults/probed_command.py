"""`pensieve` with a probe on its event loop, and faults in its engine where a test asks for them.

    python -m pensieve.tests.faults.probed_command SOCKET serve --model demo …

The product knows nothing of either. Whoever connects to SOCKET gets a line of JSON: its `Holdings`.
FAULTY_BUILD in the environment names a function, `module:name`, in place of what builds the engine's runner.
"""

import asyncio
import importlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures.thread import _threads_queues
from dataclasses import asdict, dataclass
from pathlib import Path

from pensieve.api.command import cli, serve

FAULTY_BUILD = "PENSIEVE_TEST_BUILD"

TICK_S = 0.005

PAGE = os.sysconf("SC_PAGESIZE")


@dataclass(frozen=True)
class Holdings:
    """What a server holds. lag_s: the longest that its event loop was late since the last look.

    threads: those of Python but the pools', which come as they are needed and are bounded.
    """

    pid: int
    engine_pid: int
    lag_s: float
    tasks: int
    fds: int
    threads: int
    rss: int
    engine_rss: int
    running: int
    waiting: int
    blocks_held: int
    blocks_missing: int
    state: str


class Probe:
    """Measures one server from within."""

    def __init__(self, server: serve.Server) -> None:
        self._server = server
        self._lag_s = 0.0
        self._own: list[object] = []  # or they are collected as garbage

    async def start(self, path: str) -> None:
        """Listen on a socket of the file system, and watch the event loop."""
        self._own.append(asyncio.create_task(self._watch()))
        self._own.append(await asyncio.start_unix_server(self._answer, path))

    async def _watch(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(TICK_S)
            self._lag_s = max(self._lag_s, time.monotonic() - before - TICK_S)

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(asdict(self.look())).encode())
        self._lag_s = 0.0
        writer.close()

    def look(self) -> Holdings:
        """Return what the server holds now."""
        stats = self._server.scheduler.stats()
        engine_pid = self._server.scheduler._engine.pid  # type: ignore[attr-defined]
        accounted = stats.blocks_held + stats.blocks_cached + stats.blocks_free
        return Holdings(
            pid=os.getpid(),
            engine_pid=engine_pid,
            lag_s=self._lag_s,
            tasks=len(asyncio.all_tasks()),
            fds=len(os.listdir("/dev/fd")),
            threads=sum(one not in _threads_queues for one in threading.enumerate()),
            rss=resident("self"),
            engine_rss=resident(str(engine_pid)),
            running=stats.num_running,
            waiting=stats.num_waiting,
            blocks_held=stats.blocks_held,
            blocks_missing=stats.blocks_total - accounted,
            state=stats.state,
        )


def resident(process: str) -> int:
    """Return the bytes of memory that a process has; 0 where nothing tells."""
    status = Path(f"/proc/{process}/statm")
    return int(status.read_text().split()[1]) * PAGE if status.exists() else 0


def probed(path: str) -> type[serve.Server]:
    """Return the class of servers with a probe."""

    class ProbedServer(serve.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await Probe(self).start(path)
            await super().startup(sockets)

    return ProbedServer


def main() -> None:
    """Run the command."""
    serve.Server = probed(sys.argv.pop(1))  # type: ignore[misc]
    if name := os.environ.get(FAULTY_BUILD):
        module, _, function = name.partition(":")
        build: Callable[..., object] = getattr(importlib.import_module(module), function)
        setattr(serve, "build", build)  # noqa: B010  (which the module does not export)
    cli.run()


if __name__ == "__main__":
    main()
