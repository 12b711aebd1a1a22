"""A server's processes as a supervisor sees them: started, told by signals, and judged by how they end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pensieve.bench.server_process import free_port, list_processes, read_processes

from ..e2e.conftest import wait_until_healthy
from ..processes import wait_for_end

END_S = 60
"""Seconds that are waited for an end. How long it took is a figure, for which no test fails."""


@dataclass
class PlainServer:
    """`pensieve serve` in a process group of its own."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def children(self) -> list[int]:
        """The ids of the processes that it has started."""
        return read_processes(list_processes())[1].get(self.process.pid, [])

    def wait_until_healthy(self) -> None:
        """Wait until it serves."""
        wait_until_healthy(self.url, self.process)

    def log_text(self) -> str:
        """Return all that it has logged."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def tell(self, *numbers: signal.Signals, gap_s: float = 0.0) -> "Ending":
        """Send signals to the process, and wait until it and its children have ended."""
        children = self.children
        told_s = time.monotonic()
        for number in numbers:
            if self.process.poll() is None:
                self.process.send_signal(number)
            time.sleep(gap_s if number is not numbers[-1] else 0)
        code = self.process.wait(END_S)
        took_s = time.monotonic() - told_s
        for child in children:
            wait_for_end(child)
        return Ending(code, took_s, self.log_text())


@dataclass(frozen=True)
class Ending:
    """How a server ended."""

    code: int
    took_s: float
    log: str

    @property
    def is_clean(self) -> bool:
        """Whether nothing in the log looks like a failure."""
        return not any(word in self.log for word in ("Traceback", "Exception", "unexpected"))


@contextmanager
def plain_server(folder: Path, *flags: str, model: str = "demo") -> Iterator[PlainServer]:
    """Start a server, without disk tier unless the flags say so; it may not serve yet. Kill it at the end."""
    port, log = free_port(), folder / "log"
    disk = () if "--disk-cache-gb" in flags else ("--disk-cache-gb", "0")
    command = [
        sys.executable,
        "-m",
        "pensieve",
        "serve",
        "--model",
        model,
        "--port",
        str(port),
        *disk,
        *flags,
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield PlainServer(process, port, log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
