"""The events of one response's stream, kept so that a client may read them again and from any place on."""

import asyncio
from collections.abc import AsyncIterator

from ...output.message_events import sse

MAX_BYTES = 8 * 1024 * 1024  # of one response's events: some 40,000 tokens
PART_BYTES = 64 * 1024  # of events that a reader gets at a time
PING = ": ping\n\n"
END_OF_EVENT = "\n\n"


class EventLog:
    """The events of one stream, numbered from 0 as their sequence numbers are.

    Where they have more than `max_bytes`, the oldest ones are dropped.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._events: list[bytes] = []
        self._num_dropped = 0
        self._has_ended = False
        self._news = asyncio.Event()  # set, and replaced, when events have come or the stream has ended
        self.num_bytes = 0

    @property
    def first(self) -> int:
        """The number of the oldest event that is kept."""
        return self._num_dropped

    def append(self, text: str) -> None:
        """Add whole events."""
        added = [(event + END_OF_EVENT).encode() for event in text.split(END_OF_EVENT)[:-1]]
        self._events += added
        self.num_bytes += sum(map(len, added))
        if self.num_bytes > self._max_bytes:
            self._drop()
        self._tell()

    def end(self) -> None:
        """Say that no more events come."""
        self._has_ended = True
        self._tell()

    async def follow(self, after: int, ping_s: float) -> AsyncIterator[bytes]:
        """Yield the events whose numbers are larger than `after`, until the stream ends.

        A comment is yielded where none comes for `ping_s` seconds. A reader that is so slow that the events
        it has not read are dropped gets an event that says so, and no more.
        """
        place = after + 1
        while place >= self._num_dropped:
            part = self._part(place)
            if part:
                place += len(part)
                yield b"".join(part)
            elif self._has_ended:
                return
            else:
                news = self._news
                try:
                    async with asyncio.timeout(ping_s):
                        await news.wait()
                except TimeoutError:
                    yield PING.encode()
        message = f"events before {self._num_dropped} are no longer kept; ask without stream"
        last = {"type": "error", "code": "events_dropped", "message": message, "param": None}
        yield sse(last | {"sequence_number": place}).encode()

    def _part(self, place: int) -> list[bytes]:
        """Return some of the events from the number `place` on."""
        start = end = place - self._num_dropped
        num_bytes = 0
        while end < len(self._events) and num_bytes < PART_BYTES:
            num_bytes += len(self._events[end])
            end += 1
        return self._events[start:end]

    def _drop(self) -> None:
        """Drop the oldest events, a quarter of the bytes at least, so that this is seldom done."""
        count = 0
        while count < len(self._events) and self.num_bytes > self._max_bytes * 3 // 4:
            self.num_bytes -= len(self._events[count])
            count += 1
        del self._events[:count]
        self._num_dropped += count

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
