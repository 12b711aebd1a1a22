"""A server as a child process: samples its memory, counts its processor time, and ends it."""

import os
import signal
import socket
import subprocess
import threading
from collections import abc
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .process_guard import ProcessGuard

SAMPLE_S = 0.1
STOP_S = 20


class ServerProcess:
    """A child process and its own children. As a context manager it ends all of them.

    They end with this process in any case, see ProcessGuard.

    peak_bytes: most resident memory of the processes together, sampled; shared pages count for each process.
    """

    def __init__(self, command: abc.Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.peak_bytes = 0
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, so that its end takes its children along
            )
        self._guard = ProcessGuard(self._process.pid, STOP_S)
        self._stopping = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._sampler.join()
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._guard.dismiss()

    @property
    def pid(self) -> int:
        """The child process's id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the child process runs; its own children do not count."""
        return self._process.poll() is None

    def cpu_s(self) -> float:
        """Return the seconds of processor time so far, of all cores and of the children."""
        return tree_usage(self._process.pid).cpu_s

    def last_words(self) -> str:
        """Return the end of the server's output."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-1000:].strip()

    def kill(self) -> None:
        """End the process and its children as a crash would, and wait for it."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _sample(self) -> None:
        is_over = False
        while not is_over:  # a last time at the end: a short life must count as well
            is_over = self._stopping.wait(SAMPLE_S)
            self.peak_bytes = max(self.peak_bytes, tree_usage(self._process.pid).resident_bytes)


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """Memory and processor time of a process, or of a tree of processes."""

    resident_bytes: int = 0
    cpu_s: float = 0.0

    def __add__(self, other: "ResourceUsage") -> "ResourceUsage":
        return ResourceUsage(self.resident_bytes + other.resident_bytes, self.cpu_s + other.cpu_s)


def tree_usage(root: int) -> ResourceUsage:
    """Return the resources of a process and its living descendants together."""
    usages, children = read_processes(list_processes())
    total, waiting = ResourceUsage(), [root]
    while waiting:
        process = waiting.pop()
        total += usages.get(process, ResourceUsage())
        waiting += children.get(process, [])
    return total


def list_processes() -> Iterable[str]:
    """Return a line for each process: its id, its parent's id, resident memory in KiB, processor time."""
    if Path("/proc/self/status").exists():
        return [line for folder in Path("/proc").glob("[0-9]*") if (line := _proc_line(folder))]
    command = ["ps", "-axo", "pid=,ppid=,rss=,time="]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _proc_line(folder: Path) -> str | None:
    """Return a process's line as `ps` prints it (bare containers have no `ps`); None when it has ended."""
    try:
        # The name, in parentheses, may hold spaces: count the fields after it.
        fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    parent, ticks, pages = fields[1], int(fields[11]) + int(fields[12]), int(fields[21])
    kibibytes = pages * os.sysconf("SC_PAGE_SIZE") // 1024
    return f"{folder.name} {parent} {kibibytes} {ticks / os.sysconf('SC_CLK_TCK')}"


def read_processes(lines: Iterable[str]) -> tuple[dict[int, ResourceUsage], dict[int, list[int]]]:
    """Return the resources of each process, and the children of each parent."""
    usages: dict[int, ResourceUsage] = {}
    children: dict[int, list[int]] = {}
    for line in lines:
        process, parent, kibibytes, cpu = line.split()
        usages[int(process)] = ResourceUsage(int(kibibytes) * 1024, read_time(cpu))
        children.setdefault(int(parent), []).append(int(process))
    return usages, children


def read_time(text: str) -> float:
    """Return the seconds of a time like `12.5`, `3:12.5` or `1:03:12`."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def free_port() -> int:
    """Return a port on which no process listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
