"""The base class of readers that send JSON token by token and repair small faults."""

from collections.abc import Callable, Collection
from dataclasses import replace

from ..output_events import OutputEvent
from .call_reader import BodyResult
from .call_writer import CallWriter
from .json_reader import JsonError, JsonReader, Token
from .parsed_calls import broken_call


class StreamedJsonCalls:
    """Reads a body as a series of JSON values, and ends a call that is cut off or broken.

    Subclasses find where a value begins (`_begin`) and interpret its tokens (`_take`).
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names  # of the request's tools
        self._texts: list[str] = []  # of the body
        self._writer = CallWriter(names)
        self._json: JsonReader | None = None  # of the value that is open
        self._unread = ""  # text that belongs to no value yet
        self._is_broken = False
        self._is_repaired = False
        self._has_arguments = False  # the open call has all of its arguments
        self._num_calls = 0
        self._sent_until = 0  # index in the body at which the last sent call ends

    def add(self, text: str) -> list[OutputEvent]:
        """Take text and return the events that have become certain."""
        self._texts.append(text)
        self._unread += text
        self._try(self._read)
        return self._writer.take()

    def lookahead(self) -> JsonReader | None:
        """Return a copy of the JSON reader if the text so far ends within a JSON string, else None."""
        in_string = not self._is_broken and self._json is not None and self._json.in_string
        return self._json.fork() if in_string and self._json is not None else None

    def end(self, complete: bool) -> BodyResult:
        """End the body; add missing brackets if the body is `complete`."""
        if complete:
            self._try(self._close_brackets)
        end = self._end(complete)
        return replace(end, events=[*self._writer.take(), *end.events])

    def _end(self, complete: bool) -> BodyResult:
        if self._writer.is_sent:
            return self._end_sent()
        deferred, is_whole = self._writer.take_deferred(), bool(self._num_calls) and not self._is_open
        if is_whole and not self._is_broken:
            return BodyResult("repaired" if self._is_repaired else "ok", deferred)
        if is_whole and not deferred:  # the text after the calls is broken
            return BodyResult("repaired", unread=self._all_unread())
        text = "".join(self._texts)[self._sent_until :]
        return broken_call(text, self._names) if complete else BodyResult("failed", text=text)

    @property
    def _is_open(self) -> bool:
        """Whether a call has begun and not ended."""
        return self._writer.is_open

    def _end_sent(self) -> BodyResult:
        """End the body within a call whose beginning was sent to the client."""
        if self._has_arguments:
            self._writer.end()
            return BodyResult("repaired", unread=self._all_unread())
        if self._is_broken:
            self._writer.break_off(self._all_unread(), "".join(self._texts)[self._sent_until :])
        else:
            self._writer.cut()
        return BodyResult("failed")

    def _all_unread(self) -> str:
        return (self._json.unread if self._json else "") + self._unread

    def _try(self, action: Callable[[], None]) -> None:
        try:
            if not self._is_broken:
                action()
        except JsonError:
            self._is_broken = True

    def _read(self) -> None:
        while self._json is not None or self._begin():
            assert self._json is not None, "a value has begun"
            text, self._unread = self._unread, ""
            for token in self._json.read(text):
                self._take(token)
            if not self._json.is_done:
                return
            self._end_value()

    def _close_brackets(self) -> None:
        """Add the brackets that are missing at the end."""
        for token in self._json.close() if self._json else ():
            self._take(token)
        if self._json is not None:
            self._end_value()

    def _end_value(self) -> None:
        assert self._json is not None, "a value has ended"
        self._is_repaired |= self._json.is_repaired
        self._unread = self._json.unread
        self._json = None

    def _end_call(self) -> None:
        self._writer.end()
        self._num_calls += 1
        self._has_arguments = False
        if not self._writer.has_deferred:
            self._sent_until = sum(map(len, self._texts)) - len(self._all_unread())

    def _begin(self) -> bool:
        """Begin the next value in the unread text; False when none begins there. Raises JsonError."""
        raise NotImplementedError

    def _take(self, token: Token) -> None:
        """Take a token of the open value. Raises JsonError when the token is no part of a call."""
        raise NotImplementedError
