"""One request's record: times and counts of its answer; at its end, its metrics and its log line.

Each finished request has one line, at level info, in logfmt:

    request req_4f… session=5f2c… prompt=24103 cached=23968 generated=212 queue=0.012s ttft=0.210s rate=41.2/s
    outcome=tool_use

prompt, cached and generated are counts of tokens. queue is the time from the scheduler's queue to admission,
or to the end of a request that was never admitted; ttft is the time from the request's arrival to its first
token; rate counts the tokens after the first. outcome is one of Outcome. `-` stands for a missing value.
Refused requests have no line; no prompt text is logged.
"""

import logging
import time
from collections.abc import Iterable

from ...scheduler.sequence import Request
from ..formats.readers.call_reader import ParseResult
from ..metrics import Metrics, Outcome
from ..protocols import TokenSource

MAX_LOGGED_CHARS = 64  # of a text that the client sent

logger = logging.getLogger(__name__)


class RequestRecord:
    """The times and counts of one request that the scheduler has queued."""

    def __init__(
        self, request: Request, token_stream: TokenSource, metrics: Metrics, started_s: float
    ) -> None:
        """started_s: time.monotonic() when the request arrived."""
        self.num_generated = 0  # tokens sampled so far, the stop token at the end among them
        self._request = request
        self._token_stream = token_stream
        self._metrics = metrics
        self._started_s = started_s
        self._ttft_s: float | None = None
        self._last_tokens_s = started_s
        self._is_closed = False

    def generated(self, num_tokens: int) -> None:
        """Count `num_tokens` new tokens, and observe their latency."""
        now = time.monotonic()
        self.num_generated += num_tokens
        if self._ttft_s is None:
            self._ttft_s = now - self._started_s
            self._metrics.first_token(self._token_stream, self._ttft_s)
        else:
            self._metrics.next_tokens(num_tokens, now - self._last_tokens_s)
        self._last_tokens_s = now

    def close(self, outcome: Outcome, calls: Iterable[ParseResult]) -> None:
        """Write metrics and log line of the ended request. Further calls do nothing.

        calls: the parse result of each tool call.
        """
        if self._is_closed:
            return
        self._is_closed = True
        elapsed_s = time.monotonic() - self._started_s
        self._metrics.ended(self._token_stream, self.num_generated, outcome, elapsed_s)
        if name := self._request.origin.account.name:
            self._metrics.key_used(name, self._token_stream, self.num_generated)
        for result in calls:
            self._metrics.tool_call(result)
        logger.info("%s", self._line(outcome))

    def _line(self, outcome: Outcome) -> str:
        token_stream, now = self._token_stream, time.monotonic()
        admitted_s, first_s = token_stream.admitted_s, token_stream.first_token_s
        decode_s = 0.0 if first_s is None else now - first_s
        has_rate = self.num_generated > 1 and decode_s > 0
        fields = {
            "session": escaped(self._request.origin.session) or "-",
            "prompt": token_stream.num_prompt_tokens,
            "cached": "-" if admitted_s is None else token_stream.num_cached_tokens,
            "generated": self.num_generated,
            "queue": f"{(now if admitted_s is None else admitted_s) - token_stream.arrival_s:.3f}s",
            "ttft": "-" if self._ttft_s is None else f"{self._ttft_s:.3f}s",
            "rate": f"{(self.num_generated - 1) / decode_s:.1f}/s" if has_rate else "-",
            "outcome": outcome,
        }
        words = " ".join(f"{name}={value}" for name, value in fields.items())
        return f"request {self._request.request_id} {words}"


def escaped(text: str) -> str:
    """Return the beginning of a client's text as one printable word, which cannot forge a line or field."""
    word = text[:MAX_LOGGED_CHARS].encode("unicode_escape").decode("ascii").replace(" ", "\\x20")
    return word if len(text) <= MAX_LOGGED_CHARS else word + "..."
