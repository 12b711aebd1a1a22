"""Looks into both processes of a server that a test starts, and makes it leak where the test asks for that.

A test puts a folder with a `sitecustomize.py` that calls `install` into the path of Python, and names the
folder for the answers in the environment. A process that gets SIGUSR2 then writes what it holds to a
file there. Without the variable nothing is installed.
"""

import asyncio
import gc
import json
import os
import signal
import sys
import threading
import time
from concurrent.futures.thread import _threads_queues
from contextlib import suppress
from pathlib import Path
from typing import Any

FOLDER = "PENSIEVE_TESTS_PROBE"
"""Variable of the environment: the folder for the answers."""

LEAK = "PENSIEVE_TESTS_LEAK_BYTES"
"""Variable of the environment: bytes that the server is to keep of each HTTP request for ever."""

SITE = "from pensieve.tests.faults.process_probe import install\ninstall()\n"
"""The content of `sitecustomize.py`."""

ANSWER_S = 30

SMALL_COUNT, SMALL_BYTES = 64, 2**18


def environment(folder: Path, leak_bytes: int = 0) -> dict[str, str]:
    """Make the folder; return the environment of a server whose processes answer there."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {FOLDER: str(folder), LEAK: str(leak_bytes), "PYTHONPATH": os.pathsep.join(paths)}


def install() -> None:
    """Answer SIGUSR2, and leak, as the environment says."""
    if (name := os.environ.get(FOLDER)) is None:
        return
    folder = Path(name)
    signal.signal(signal.SIGUSR2, lambda *_: _answer(folder))
    _lower_bounds()
    if leak_bytes := int(os.environ.get(LEAK, "0")):
        _leak(leak_bytes)


def ask(folder: Path, pid: int) -> dict[str, Any]:
    """Have a process collect its garbage and tell its asyncio tasks, threads and arrays' bytes."""
    path = folder / f"{pid}.json"
    path.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR2)
    for _ in range(ANSWER_S * 100):
        if path.exists():
            held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return held
        time.sleep(0.01)
    raise AssertionError(f"process {pid} does not tell what it holds")


def _answer(folder: Path) -> None:
    gc.collect()
    held: dict[str, Any] = {
        "threads": 0,
        "tasks": 0,
        "active_bytes": 0,
        "spare_bytes": 0,
    }
    # Threads of pools come as they are needed, up to a bound.
    held["threads"] = sum(thread not in _threads_queues for thread in threading.enumerate())
    with suppress(RuntimeError):  # it has no event loop
        held["tasks"] = len(asyncio.all_tasks())
    if (mx := sys.modules.get("mlx.core")) is not None:
        held["active_bytes"], held["spare_bytes"] = mx.get_active_memory(), mx.get_cache_memory()
    new = folder / f"{os.getpid()}.new"
    new.write_text(json.dumps(held), encoding="utf-8")
    new.replace(new.with_suffix(".json"))


def _lower_bounds() -> None:
    """Let what is bounded reach its bound within the soak's first minutes; as served, it takes a day."""
    import pensieve.api.prompt.counts as counts
    import pensieve.scheduler.sessions as sessions
    from pensieve.api.prompt.segment_cache import SegmentCache
    from pensieve.api.reports.recent_prompts import RecentPrompts
    from pensieve.api.reports.request_log import RequestLog

    counts.MAX_COUNTS = sessions.MAX_SESSIONS = SMALL_COUNT
    SegmentCache.__init__.__defaults__ = RecentPrompts.__init__.__defaults__ = (SMALL_BYTES,)
    RequestLog.__init__.__defaults__ = (SMALL_COUNT,)


def _leak(num_bytes: int) -> None:
    from pensieve.api.middleware import RequestContext

    kept: list[bytes] = []
    original = RequestContext.__call__

    async def call(self: Any, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            kept.append(os.urandom(num_bytes))
        await original(self, scope, receive, send)

    RequestContext.__call__ = call  # type: ignore[method-assign]
