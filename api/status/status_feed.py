"""Snapshots of the server for the status page: one a second for all who watch, and none while nobody does."""

import asyncio
import json
import time
from collections import abc
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ... import __version__
from ...cache.blocks import BLOCK_SIZE
from ...scheduler.session_report import SessionReport
from ..reports.request_log import MAX_REPORTS
from ..reports.session_table import session_row
from ..services import Services
from .request_rows import Point, RequestRows, point_of

TICK_S = 1.0

MAX_SESSIONS, MAX_REQUESTS = 40, 50
"""Sessions and requests that a snapshot shows, the latest ones. The event loop has 1 ms for all of it."""

SPAN_S = 900.0
"""Seconds of the charts."""

AT_ONCE = 64
"""Reports that are looked at before the event loop may go on."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Whose requests and sessions are shown: those of a key, by its digest and its account's name."""

    key: bytes
    account: str


@dataclass(slots=True)
class StartFacts:
    """What the server prints at its start: the model's plan, and how to point a client to it."""

    plan: str = ""
    client: str = ""


class StatusFeed:
    """The snapshots for one viewer. They are made while at least one page watches."""

    def __init__(self, services: Services, viewer: Viewer, tick_s: float = TICK_S) -> None:
        self._services = services
        self._viewer = viewer
        self._tick_s = tick_s
        self.num_watchers = 0
        self._task: asyncio.Task[None] | None = None
        self._rows = RequestRows()
        self._ticked = asyncio.Event()  # another one after each tick
        self._number = 0  # of ticks
        self._latest = b""

    @property
    def is_at_work(self) -> bool:
        """Whether snapshots are being made."""
        return self._task is not None and not self._task.done()

    async def watch(self, start: StartFacts) -> AsyncGenerator[bytes, None]:
        """Yield events: the server's facts and past, then a snapshot each second, until the server stops.

        A page that reads slowly misses snapshots.
        """
        self.num_watchers += 1
        try:
            yield _event("hello", _json(await self._hello(start)))
            if not self.is_at_work:
                self._task = asyncio.create_task(self._run())
            seen = self._number
            while self.is_at_work:
                if self._number == seen:
                    await self._ticked.wait()
                else:
                    seen = self._number
                    yield self._latest
        finally:
            self.num_watchers -= 1
            if not self.num_watchers and self._task is not None:
                self._task.cancel()

    async def _run(self) -> None:
        is_last = False
        try:
            while not is_last:
                self._latest, is_last = await self._snapshot()
                self._number += 1
                self._wake()
                await asyncio.sleep(self._tick_s)
        finally:
            asyncio.get_running_loop().call_soon(self._wake)  # once the task has ended

    def _wake(self) -> None:
        ticked, self._ticked = self._ticked, asyncio.Event()
        ticked.set()

    async def _snapshot(self) -> tuple[bytes, bool]:
        """Return the event of a snapshot, and whether it is the last one."""
        services = self._services
        stats = services.scheduler.stats()
        sessions = list(islice(services.scheduler.sessions(self._viewer.account), MAX_SESSIONS + 1))
        await asyncio.sleep(0)
        reports = services.requests.latest(self._viewer.key, MAX_REQUESTS)
        body = {
            "now": round(time.time(), 3),
            "stats": stats.as_dict(),
            "more_sessions": len(sessions) > MAX_SESSIONS,
            "ended": self._rows.ended(reports),
        }
        requests = self._rows.rows(reports)
        event = await asyncio.to_thread(_encode, body, requests, sessions[:MAX_SESSIONS])
        return event, stats.state == "stopping"

    async def _hello(self, start: StartFacts) -> dict[str, Any]:
        model = self._services.model
        return {
            "version": __version__,
            "model": model.name,
            "device": model.device,
            "kv": model.kv_type,
            "max_context": model.max_context,
            "kv_bytes_per_token": model.kv_bytes_per_token,
            "block_tokens": BLOCK_SIZE,
            "plan": start.plan,
            "client": start.client,
            "points": await self._past(),
        }

    async def _past(self) -> list[Point]:
        """Return the requests that ended in the span of the charts, the earliest first."""
        since_s = time.time() - SPAN_S
        points: list[Point] = []
        for number, report in enumerate(self._services.requests.latest(self._viewer.key, MAX_REPORTS)):
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
            if report.outcome is not None and (point := point_of(report))[0] > since_s:
                points.append(point)
        return points[::-1]


def _encode(
    body: dict[str, Any], requests: abc.Iterable[str | dict[str, Any]], sessions: abc.Iterable[SessionReport]
) -> bytes:
    """Return a snapshot's event. For a thread: each row is written by itself, so that the event loop goes on.

    requests: rows, or texts that are rows as JSON.
    """
    rows = ",".join(row if isinstance(row, str) else _json(row) for row in requests)
    session_rows = ",".join(_json(session_row(report)) for report in sessions)
    return _event("tick", f'{_json(body)[:-1]},"requests":[{rows}],"sessions":[{session_rows}]}}')


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _event(name: str, data: str) -> bytes:
    return f"event: {name}\ndata: {data}\n\n".encode()
