"""Mixed traffic for a long time: whatever grows with the number of requests is found.

    python -m pensieve.tests.faults.soak --minutes 60
    python -m pensieve.tests.faults.soak --minutes 10 --leak 2048     # must be caught

Starts a server of its own with a tiny random model, little KV and low bounds for all that is kept, so that it
reaches its bounds early. After each round all clients wait, and the server is looked into. Exits with 1 if
something has grown.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pensieve.bench.client import read_metric
from pensieve.bench.server_process import ServerProcess, free_port, list_processes, read_processes

from ..models import write_model
from .mixed_traffic import MixedTraffic
from .process_probe import ask, environment
from .slopes import Slope, fit_slope

ROUND = 250
"""Requests between two looks."""

NUM_CLIENTS = 8
START_S = 120
SETTLE_S = 2.0
"""Seconds after a round in which all must be as before it."""

NUM_SKIPPED, SHARE_SKIPPED = 3000, 0.1
"""Requests, and share of the soak, at its begin, in which caches fill; of a short soak, half of it."""

MAX_SLOPE = 512
"""Bytes that the resident memory may grow by for each request, as far as a certainty of 95 % goes."""

FLAGS = ("--disk-cache-gb", "0", "--kv-cache-gb", "0.01", "--history-mb", "1")


@dataclass(frozen=True, slots=True)
class Look:
    """What the server's two processes hold when nothing is asked of them."""

    requests: int
    resident_bytes: int
    engine_bytes: int  # resident memory of the engine's process
    files: int  # open files of both processes
    threads: int
    tasks: int
    active_bytes: int  # of the engine's arrays
    spare_bytes: int  # that MLX keeps for the next arrays
    held: float  # blocks of KV in use, running and waiting requests

    @property
    def constants(self) -> tuple[int, int, int]:
        """What must not grow at all."""
        return self.files, self.threads, self.tasks

    def holds_no_more_than(self, first: "Look") -> bool:
        """Whether none of the constants is larger than it was."""
        return all(now <= then for now, then in zip(self.constants, first.constants, strict=True))


def main() -> None:
    """Run, print a table, and judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--requests", type=int, default=10**9, help="end earlier, after so many")
    parser.add_argument("--leak", type=int, default=0, help="bytes a request that the server is made to leak")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    looks, traffic = soak(options.minutes, options.requests, options.leak, options.seed)
    faults = judge(looks, traffic)
    print("\n".join(["", *report(looks, traffic), *(f"FAULT {fault}" for fault in faults)]))
    sys.exit(1 if faults else 0)


def soak(minutes: float, num_requests: int, leak: int, seed: int) -> tuple[list[Look], MixedTraffic]:
    """Send rounds of requests; return a look at the server after each."""
    looks: list[Look] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as name, probed_server(Path(name), leak) as (root, url):
        traffic = MixedTraffic(url, seed)
        end_s = time.monotonic() + 60 * minutes
        while time.monotonic() < end_s and len(looks) * ROUND < num_requests:
            first = seed * 10**9 + len(looks) * ROUND
            with ThreadPoolExecutor(NUM_CLIENTS) as clients:
                list(clients.map(traffic.send, range(first, first + ROUND)))
            looks.append(settled_look(Path(name), root, url, (len(looks) + 1) * ROUND, looks))
            print(json.dumps(asdict(looks[-1])), flush=True)
    return looks, traffic


@contextmanager
def probed_server(folder: Path, leak: int) -> Iterator[tuple[int, str]]:
    """Run a server that can be looked into; yield its process's id and its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    model = write_model(folder / "model")
    command = [sys.executable, "-m", "pensieve", "serve", *FLAGS, "--model", str(model), "--port", str(port)]
    with ServerProcess(command, os.environ | environment(folder / "probe", leak), folder / "log") as server:
        begun_s = time.monotonic()
        while not has_started(url):
            assert server.is_running, server.last_words()
            assert time.monotonic() - begun_s < START_S, server.last_words()
            time.sleep(0.1)
        yield server.pid, url
        assert "Traceback" not in server.log.read_text(encoding="utf-8"), server.last_words()


def has_started(url: str) -> bool:
    """Whether a server answers there."""
    try:
        return read_metric(url, "pensieve_num_requests_running") == 0
    except OSError:
        return False


def settled_look(folder: Path, root: int, url: str, requests: int, before: list[Look]) -> Look:
    """Look until nothing is in use and the constants are those of the first look, SETTLE_S at most."""
    begun_s = time.monotonic()
    while True:
        now = look(folder / "probe", root, url, requests)
        is_settled = now.held == 0 and (not before or now.holds_no_more_than(before[0]))
        if is_settled or time.monotonic() - begun_s > SETTLE_S:
            return now
        time.sleep(0.1)


def look(folder: Path, root: int, url: str, requests: int) -> Look:
    """Return what a server holds."""
    usages, children = read_processes(list_processes())
    (engine,) = children[root]
    held = [ask(folder, pid) for pid in (root, engine)]
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    return Look(
        requests,
        usages[root].resident_bytes,
        usages[engine].resident_bytes,
        sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in (root, engine)),
        sum(one["threads"] for one in held),
        sum(one["tasks"] for one in held),
        sum(one["active_bytes"] for one in held),
        sum(one["spare_bytes"] for one in held),
        sum(read_metric(url, f"pensieve_{name}") for name in names),
    )


def after_filling(looks: list[Look]) -> list[Look]:
    """Return the looks after the soak's begin."""
    num_skipped = max(NUM_SKIPPED // ROUND, int(len(looks) * SHARE_SKIPPED))
    return looks[min(num_skipped, len(looks) // 2) :]


def memory_slope(looks: list[Look]) -> Slope:
    """Return the growth of both processes' resident memory, in bytes a request, once caches are full.

    MLX's spare buffers, which have a bound of their own that they reach slowly, do not count.
    """
    kept = after_filling(looks)
    used = [(one.requests, one.resident_bytes + one.engine_bytes - one.spare_bytes) for one in kept]
    return fit_slope(used)


def latency_ratio(traffic: MixedTraffic) -> float:
    """Return the 99th percentile of the last tenth of the short questions over that of the first tenth."""
    count = max(2, len(traffic.short_s) // 10)
    first, last = (
        statistics.quantiles(part, n=100)[98] for part in (traffic.short_s[:count], traffic.short_s[-count:])
    )
    return last / first


def judge(looks: list[Look], traffic: MixedTraffic) -> list[str]:
    """Return what has grown or was answered wrongly."""
    faults = list(traffic.wrong)
    kept = after_filling(looks)
    slope = memory_slope(looks)
    if slope.high > MAX_SLOPE:
        faults.append(f"memory grows by {slope.value:.0f} bytes a request, at most {slope.high:.0f}")
    for index, name in enumerate(("files", "threads", "tasks")):
        if kept[-1].constants[index] > kept[0].constants[index]:
            faults.append(f"{name}: {kept[0].constants[index]}, then {kept[-1].constants[index]}")
    if abs(kept[-1].active_bytes - kept[0].active_bytes) > 2**20:
        faults.append(f"arrays: {kept[0].active_bytes:,} bytes, then {kept[-1].active_bytes:,}")
    if any(one.held for one in looks):
        faults.append("blocks or requests were held after a round")
    return faults


def report(looks: list[Look], traffic: MixedTraffic) -> list[str]:
    """Return the figures as lines."""
    slope, first, last = memory_slope(looks), after_filling(looks)[0], looks[-1]
    return [
        f"{last.requests:,} requests: {traffic.counts}; answered wrongly: {len(traffic.wrong)}",
        f"resident memory: {slope.value:+.0f} bytes a request (95 %: {slope.low:+.0f} to {slope.high:+.0f})",
        f"files, threads, tasks: {first.constants}, then {last.constants}",
        f"bytes of arrays: {first.active_bytes:,}, then {last.active_bytes:,}",
        f"p99 of short questions: last tenth / first tenth = {latency_ratio(traffic):.2f}",
    ]


if __name__ == "__main__":
    main()
