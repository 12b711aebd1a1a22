"""One request's record: times and counts while it is answered, then its metrics and its line in the log.

The line is one per finished request, at level info, in logfmt:

    request req_4f… session=5f2c… prompt=24103 cached=23968 generated=212 queue=0.012s ttft=0.210s rate=41.2/s
    outcome=tool_use

prompt, cached and generated are tokens. queue runs from arrival to admission, or to the end of a request
that was never admitted; ttft from arrival to the first token; rate counts the tokens after the first one.
outcome is one of Outcome. `-` is written for what there is not. Refused requests have no line; no prompt
text is logged.
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
    """The times and counts of one request that the scheduler has taken."""

    def __init__(
        self, request: Request, token_stream: TokenSource, metrics: Metrics, started_s: float
    ) -> None:
        """started_s: time.monotonic() when the request came in."""
        self.num_generated = 0  # tokens sampled so far, the stop token at the end among them
        self._request = request
        self._token_stream = token_stream
        self._metrics = metrics
        self._started_s = started_s
        self._ttft_s: float | None = None
        self._last_tokens_s = started_s
        self._is_closed = False

    def generated(self, num_tokens: int) -> None:
        """Note that `num_tokens` new tokens have come."""
        now = time.monotonic()
        self.num_generated += num_tokens
        if self._ttft_s is None:
            self._ttft_s = now - self._started_s
            self._metrics.first_token(self._token_stream, self._ttft_s)
        else:
            self._metrics.next_tokens(num_tokens, now - self._last_tokens_s)
        self._last_tokens_s = now

    def close(self, outcome: Outcome, calls: Iterable[ParseResult]) -> None:
        """Write metrics and log line of the ended request; only the first call does anything.

        calls: what became of each of its tool calls.
        """
        if self._is_closed:
            return
        self._is_closed = True
        elapsed_s = time.monotonic() - self._started_s
        self._metrics.ended(self._token_stream, self.num_generated, outcome, elapsed_s)
        for result in calls:
            self._metrics.tool_call(result)
        logger.info("%s", self._line(outcome))

    def _line(self, outcome: Outcome) -> str:
        token_stream, now = self._token_stream, time.monotonic()
        admitted_s, first_s = token_stream.admitted_s, token_stream.first_token_s
        decode_s = 0.0 if first_s is None else now - first_s
        has_rate = self.num_generated > 1 and decode_s > 0
        fields = {
            "session": escaped(self._request.session) if self._request.session else "-",
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
    """Return the beginning of a client's text as one printable word that forges no line or field."""
    word = text[:MAX_LOGGED_CHARS].encode("unicode_escape").decode("ascii").replace(" ", "\\x20")
    return word if len(text) <= MAX_LOGGED_CHARS else word + "..."
