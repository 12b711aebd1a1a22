"""Requests that a client sends again while the answer to the first one is still computed.

A client that has waited for its timeout closes the connection and sends the same request again. Computed
anew, an answer that takes longer than the timeout would never end. So the answer goes on for a moment after
such a client has left, and the request that comes then reads it from its beginning.

It has to be plain that a request is sent again, since whoever sends one twice at a time wants two samples:

* It has the same body (but for `stream`), path, key, session and agent as the one before.
* The client of the one before has left, and had waited as long as its timeout, which SDKs tell in
  `x-stainless-timeout` or `x-stainless-read-timeout`, and which is 300 s at most for Claude Code. Or it has
  waited so long and seems to be there still (a proxy may keep its connection), and the new request counts
  itself as a retry, or comes from the same agent of a session.
* No other request has taken the answer over, and it has not failed.

A client that leaves earlier has changed its mind: its answer ends at once.
"""

import asyncio
import hashlib
import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from starlette.requests import Request as HttpRequest

from .bounded_json import outside_strings
from .metrics import Metrics
from .output.answer import Answer
from .output.shared_answer import AnswerView, SharedAnswer
from .request_origin import owner_of

TIMEOUTS = ("x-stainless-timeout", "x-stainless-read-timeout")

AGENT_TIMEOUT_S = 300.0
"""Seconds of silence after which Claude Code gives a request up, whatever timeout it tells."""

EARLY_S = 1.0
"""Seconds by which a client that has waited for its timeout may seem to leave too early: it counts from
before its request was read."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
"""Pause of an SDK before its first retry, which doubles with each, and its longest pause."""

GRACE_S = 1.5
"""Seconds beyond an SDK's pause for which an answer waits for the client to ask again."""

BEGIN_S = 10.0
"""Seconds within which a request that goes on with an answer begins to read it."""

HASHED_AT_ONCE = 2**20
"""Bytes of a body that take less time to hash than to hand to a thread."""

STREAM_BEGIN = b'"stream'
STREAM_FIELD = re.compile(rb'(?<!\\)"stream(?:_options)?"\s*:\s*(?:true|false|null|\{[^{}]*\})\s*,?')

MAX_STREAM_FIELDS = 2
"""Where a body has more, some stand in its texts or tools, and it is compared as it is."""

logger = logging.getLogger(__name__)

Prepared = TypeVar("Prepared")


@dataclass(frozen=True, slots=True)
class Sending:
    """One time that a request was sent. key: a digest of what its twins have in common.

    timeout_s: how long its client waits; infinite where nothing tells. num_retries: as its client counts.
    """

    key: bytes
    request_id: str
    sent_s: float
    timeout_s: float = math.inf
    num_retries: int = 0
    is_agent: bool = False  # the client names its session

    def is_late(self, now_s: float) -> bool:
        """Whether the client has waited for its whole timeout."""
        return now_s - self.sent_s >= self.timeout_s - EARLY_S

    @property
    def grace_s(self) -> float:
        """Seconds within which a client that has given up asks again."""
        return min(FIRST_PAUSE_S * 2.0 ** min(self.num_retries, 9), LONGEST_PAUSE_S) + GRACE_S


async def sending_of(http: HttpRequest, started_s: float) -> Sending:
    """Return how a request was sent, which arrived at `started_s` and whose body has been read."""
    raw, headers = await http.body(), http.headers
    names = [headers.get(f"x-claude-code-{name}", "") for name in ("session-id", "agent-id")]
    client = http.client.host if http.client is not None else ""
    start = "\0".join([http.scope["path"], client, *names]).encode() + owner_of(http)
    key = _digest(start, raw) if len(raw) <= HASHED_AT_ONCE else await asyncio.to_thread(_digest, start, raw)
    timeouts = [
        _number(headers.get(f"x-stainless-{name}", ""), math.inf) for name in ("read-timeout", "timeout")
    ]
    timeout_s = min(timeouts)
    num_retries = int(_number(headers.get("x-stainless-retry-count", ""), 0))
    is_agent = bool(names[0])
    if is_agent:
        timeout_s = min(timeout_s, AGENT_TIMEOUT_S)
    return Sending(key, http.scope["state"]["request_id"], started_s, timeout_s, num_retries, is_agent)


def _digest(start: bytes, body: bytes) -> bytes:
    """Return the digest of a request, streamed or not. Other threads go on between parts of a long body."""
    places = list(islice(_stream_places(body), MAX_STREAM_FIELDS + 1))
    if len(places) <= MAX_STREAM_FIELDS:
        body = b"".join(_without_stream_fields(body, places)).rstrip(b" \r\n\t,}")
    digest = hashlib.blake2b(b"%d\0%b" % (len(start), start), digest_size=16)
    for place in range(0, len(body), HASHED_AT_ONCE):
        digest.update(body[place : place + HASHED_AT_ONCE])
    return digest.digest()


def _stream_places(body: bytes) -> Iterator[int]:
    """Yield where fields for streams may begin."""
    for start in range(0, len(body), HASHED_AT_ONCE):
        end = start + HASHED_AT_ONCE + len(STREAM_BEGIN) - 1
        while (start := body.find(STREAM_BEGIN, start, end)) >= 0:
            yield start
            start += 1


def _without_stream_fields(body: bytes, places: Iterable[int]) -> Iterator[bytes]:
    """Yield the parts of a body between its own fields for streams, of which some of the places are."""
    rest = 0
    for place in places:
        if place >= rest and (found := STREAM_FIELD.match(body, place)):
            yield body[rest:place]
            yield _nested_field(found)
            rest = found.end()
    yield body[rest:]


def _nested_field(found: re.Match[bytes]) -> bytes:
    """Return a field that is found in a body of valid JSON, or nothing if it is one of the body's own."""
    before, behind = found.string[: found.start()], found.string[found.end() :]
    text = min(before, behind, key=len)
    signs = {b"{": 1, b"[": 1, b"}": -1, b"]": -1}
    spans = outside_strings(text)
    depth = sum(step * text.count(sign, *span) for span in spans for sign, step in signs.items())
    return b"" if abs(depth) == 1 else found[0]


def _number(text: str, otherwise: float) -> float:
    is_number = re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", text)
    return float(text) if is_number else otherwise


class Twins(Generic[Prepared]):
    """The answers under way, by the requests that they answer."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self.metrics, self.clock = metrics, clock
        self.num_orphans = 0  # answers that wait for their clients to ask again
        self._running: dict[bytes, list[RunningAnswers[Prepared]]] = {}

    def find(self, sending: Sending) -> "Reader[Prepared] | None":
        """Return a reader of the answer that a request, sent again, goes on with; None for a new request."""
        for running in self._running.get(sending.key, ()):
            if (reader := running.take_over(sending)) is not None:
                return reader
        return None

    def share(self, prepared: Prepared, sending: Sending, answers: list[Answer]) -> list[Answer]:
        """Return views of the answers to a request, which others may go on with."""
        running = RunningAnswers(self, prepared, sending, answers)
        self._running.setdefault(sending.key, []).append(running)
        return Reader(running, sending).views()

    def forget(self, key: bytes, running: "RunningAnswers[Prepared]") -> None:
        """Forget answers that are closed."""
        found = self._running[key]
        found.remove(running)
        if not found:
            del self._running[key]


class RunningAnswers(Generic[Prepared]):
    """The answers to one request: one, or several choices."""

    def __init__(
        self, twins: Twins[Prepared], prepared: Prepared, sending: Sending, answers: list[Answer]
    ) -> None:
        self.prepared = prepared
        self.shared = [SharedAnswer(answer) for answer in answers]
        self._twins = twins
        self._sending = sending  # the first one
        self._readers: list[Reader[Prepared]] = []
        self._end: asyncio.TimerHandle | None = None  # that of the wait for a client to ask again

    def take_over(self, sending: Sending) -> "Reader[Prepared] | None":
        """Return a reader for a request that is plainly one of the readers' requests, sent again."""
        if self._has_failed:
            return None
        now_s = self._twins.clock()
        is_again = sending.num_retries > 0 or sending.is_agent
        if self._end is None and not (is_again and all(one.sending.is_late(now_s) for one in self._readers)):
            return None
        self._stop_waiting()
        self._twins.metrics.resend_attached()
        logger.info("request %s goes on with the answer to %s", sending.request_id, self._sending.request_id)
        reader = Reader(self, sending)
        reader.begin_within(BEGIN_S)
        return reader

    def add(self, reader: "Reader[Prepared]") -> None:
        """Count a reader, who will leave."""
        self._readers.append(reader)

    def leave(self, reader: "Reader[Prepared]") -> None:
        """Take leave of a reader. The last one's client may ask again, if it has waited for its timeout.

        One that has left already, as it came too late, does nothing.
        """
        if reader not in self._readers:
            return
        self._readers.remove(reader)
        if self._readers:
            return
        is_over = all(answer.is_over for answer in self.shared)
        if is_over or self._has_failed or not reader.sending.is_late(self._twins.clock()):
            self._close()
            return
        self._twins.num_orphans += 1
        loop = asyncio.get_running_loop()
        self._end = loop.call_later(reader.sending.grace_s, self._give_up)

    @property
    def _has_failed(self) -> bool:
        return any(answer.has_failed for answer in self.shared)

    def _give_up(self) -> None:
        self._stop_waiting()
        self._close()

    def _stop_waiting(self) -> None:
        if self._end is not None:
            self._twins.num_orphans -= 1
            self._end.cancel()
            self._end = None

    def _close(self) -> None:
        self._twins.forget(self._sending.key, self)
        for answer in self.shared:
            answer.source.close()


class Reader(Generic[Prepared]):
    """One of the requests that read the same answers."""

    def __init__(self, running: RunningAnswers[Prepared], sending: Sending) -> None:
        self.sending = sending
        self._running = running
        self._num_open = len(running.shared)
        self._late: asyncio.TimerHandle | None = None
        running.add(self)

    @property
    def prepared(self) -> Prepared:
        """The first request, as it was prepared."""
        return self._running.prepared

    def begin_within(self, seconds: float) -> None:
        """Leave unless the views are asked for in time: the response may never be sent."""
        self._late = asyncio.get_running_loop().call_later(seconds, self._running.leave, self)

    def views(self) -> list[Answer]:
        """Return the answers. The reader leaves when all of them are closed."""
        if self._late is not None:
            self._late.cancel()
        return [ReadAnswer(shared, self) for shared in self._running.shared]

    def close_one(self) -> None:
        """Count a view that is closed."""
        self._num_open -= 1
        if not self._num_open:
            self._running.leave(self)


class ReadAnswer(AnswerView):
    """A view of an answer, for one of its readers."""

    def __init__(self, shared: SharedAnswer, reader: Reader[Prepared]) -> None:
        super().__init__(shared)
        self._close: Callable[[], None] | None = reader.close_one

    def close(self) -> None:
        """Let the reader leave this answer. Further calls do nothing."""
        close, self._close = self._close, None
        if close is not None:
            close()
