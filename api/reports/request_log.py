"""The reports of the latest requests, each to be read with the key alone that sent the request."""

import hmac
from collections import OrderedDict

from ..protocols import TokenSource
from .recent_prompts import RecentPrompts
from .request_report import RequestReport

MAX_REPORTS = 1000
"""Reports that are kept: some 2 kB each, of which no text or list that a client sends is a part uncut."""


class RequestLog:
    """The latest reports, and the recent prompts by which new requests are judged. For one thread."""

    def __init__(self, max_reports: int = MAX_REPORTS) -> None:
        self.recent = RecentPrompts()
        self._max_reports = max_reports
        self._reports: OrderedDict[str, RequestReport] = OrderedDict()  # by request id, the newest at the end

    def begin(self, report: RequestReport, token_stream: TokenSource) -> None:
        """Keep the report of a request that has just been queued."""
        report.begin(token_stream, self.recent)
        first = self._reports.setdefault(report.facts.request_id, report)
        if first is not report:
            first.add_round(report)
        while len(self._reports) > self._max_reports:
            self._reports.popitem(last=False)

    def find(self, key: bytes, request_id: str) -> RequestReport | None:
        """Return a report; None if it is not kept, or is another key's. key: digest of the reader's key."""
        report = self._reports.get(request_id)
        if report is None or not hmac.compare_digest(report.facts.sender.key, key):
            return None
        return report

    def latest(self, key: bytes, limit: int) -> list[RequestReport]:
        """Return the latest reports of a key, the newest first."""
        own = (r for r in reversed(self._reports.values()) if hmac.compare_digest(r.facts.sender.key, key))
        return [report for report, _ in zip(own, range(limit), strict=False)]
