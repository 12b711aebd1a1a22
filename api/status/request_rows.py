"""The latest requests as rows of the status page, and those that have ended as points of its charts."""

import json
from collections import abc
from typing import Any, NamedTuple

from ..reports.request_report import RequestReport

MAX_OPEN = 1000
"""Requests that are watched until they end; the oldest are given up."""


class Point(NamedTuple):
    """An ended request: when it ended (Unix time), its milliseconds, and its tokens.

    first_ms: until the first token; None where none came. decode_ms: from the first token to the end.
    """

    ended_s: float
    first_ms: float | None
    total_ms: float
    num_found: int
    num_prompt: int
    num_generated: int
    decode_ms: float


class RequestRows:
    """Remembers which requests have ended, and the rows of these, which no longer change."""

    def __init__(self) -> None:
        self._open: dict[str, RequestReport] = {}
        self._ended: dict[str, tuple[int, str]] = {}  # rounds, and the row as JSON, by request id

    def ended(self, reports: abc.Iterable[RequestReport]) -> list[Point]:
        """Return the requests that have ended since the last call, and, at the first one, before.

        reports: the latest ones; those of earlier calls are known.
        """
        for report in reports:
            request_id = report.facts.request_id
            if request_id not in self._ended:
                self._open.setdefault(request_id, report)
        for request_id in list(self._open)[: max(0, len(self._open) - MAX_OPEN)]:
            del self._open[request_id]
        done = [request_id for request_id, report in self._open.items() if report.outcome is not None]
        return [point_of(self._open.pop(request_id)) for request_id in done]

    def rows(self, reports: abc.Iterable[RequestReport]) -> list[str | dict[str, Any]]:
        """Return the rows of requests, in their order: as JSON where they have ended."""
        ended: dict[str, tuple[int, str]] = {}
        found: list[str | dict[str, Any]] = []
        for report in reports:
            request_id = report.facts.request_id
            num_rounds, row = self._ended.get(request_id, (0, ""))
            if num_rounds != report.num_rounds:
                summary = report.summary()
                if summary["outcome"] is None:
                    found.append(summary)
                    continue
                row = json.dumps(summary, separators=(",", ":"))
            ended[request_id] = report.num_rounds, row
            found.append(row)
        self._ended = ended
        return found


def point_of(report: RequestReport) -> Point:
    """Return the point of a request that has ended."""
    progress = report.progress
    decode_ms = progress.decode_ms
    return Point(
        round(report.created_at + progress.total_ms / 1000, 3),
        None if decode_ms is None else round(max(0.0, progress.total_ms - decode_ms), 1),
        progress.total_ms,
        progress.num_cached,
        report.num_prompt_tokens,
        progress.num_generated or 0,
        decode_ms or 0.0,
    )
