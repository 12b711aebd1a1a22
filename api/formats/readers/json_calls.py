"""Calls written in JSON, whose arguments are sent to the client token by token.

Small faults are repaired on the way; see `json_reader.py`.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import replace

from ..output_events import OutputEvent
from .call_reader import BodyResult
from .call_writer import CallWriter
from .json_reader import JsonError, JsonReader, Kind, Token
from .parsed_calls import broken_call

ARGUMENT_KEYS = ("arguments", "parameters", "input")


class StreamedJsonCalls:
    """The common part of readers that send JSON as it comes: how a body is begun, ended and repaired."""

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
        self._sent_until = 0  # end in the body of the last call that was sent

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
        """End the body, with the brackets put in that are missing where it is `complete`."""
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
        if is_whole and not deferred:  # some text follows the calls
            return BodyResult("repaired", unread=self._all_unread())
        text = "".join(self._texts)[self._sent_until :]
        return broken_call(text, self._names) if complete else BodyResult("failed", text=text)

    @property
    def _is_open(self) -> bool:
        """Whether a call has begun and not ended."""
        return self._writer.is_open

    def _end_sent(self) -> BodyResult:
        """End a call whose beginning was sent to the client."""
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
        """Put in the brackets that are missing at the end."""
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


class JsonCalls(StreamedJsonCalls):
    """Reads calls that are JSON objects of a name and arguments, in either order: one, several, or a list."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._depth: int | None = None  # of the open call's object
        self._key = ""  # of the property that is being read
        self._name: list[str] = []  # parts of the tool's name
        self._quoted: list[str] = []  # parts of arguments that are written as a string

    @property
    def _is_open(self) -> bool:
        return self._depth is not None

    def _begin(self) -> bool:
        surplus = " \t\r\n,}]" if self._num_calls else " \t\r\n"
        text = self._unread.lstrip(surplus)
        skipped = self._unread[: len(self._unread) - len(text)]
        self._is_repaired |= bool(skipped.strip())
        self._unread = text
        if text and text[0] not in "{[":
            raise JsonError("no call")
        self._json = JsonReader() if text else None
        return bool(text)

    def _take(self, token: Token) -> None:
        if self._depth is None:
            self._open_call(token)
        elif token.kind is Kind.CLOSE and token.depth == self._depth:
            self._close_call()
        elif token.kind is Kind.KEY and token.depth == self._depth + 1:
            self._key = json.loads(token.text)
        elif self._key == "name":
            self._take_name(token)
        elif self._key in ARGUMENT_KEYS and not self._has_arguments:
            self._take_argument(token)

    def _open_call(self, token: Token) -> None:
        if token.text == "{" and token.depth <= 1:
            self._depth = token.depth
            self._key, self._name, self._quoted = "", [], []
        elif token.depth or token.text not in "[]":
            raise JsonError("no call")

    def _close_call(self) -> None:
        if not self._writer.is_open:
            raise JsonError("a call without a name")
        self._depth = None
        self._end_call()

    def _take_name(self, token: Token) -> None:
        if self._writer.is_open:
            return  # a second name
        self._name.append(token.text)
        if token.kind is not Kind.STRING or (token.ends_value and self._name == ['"', '"']):
            raise JsonError("a name that is none")
        if token.ends_value:
            self._writer.start(json.loads("".join(self._name)))

    def _take_argument(self, token: Token) -> None:
        assert self._depth is not None, "a property is part of a call"
        is_top = token.depth == self._depth + 1
        if is_top and token.kind is Kind.STRING:
            self._quoted.append(token.text)
        elif is_top and token.text not in "{}":
            raise JsonError("arguments that are no object")
        else:
            self._writer.write(token.written)
        if is_top and token.ends_value:
            if self._quoted:
                self._take_quoted(json.loads("".join(self._quoted)))
            self._has_arguments = True

    def _take_quoted(self, text: str) -> None:
        """Read arguments that are written as JSON within a JSON string."""
        reader = JsonReader()
        tokens = [*reader.read(text), *reader.close()]
        if tokens[0].text != "{" or reader.unread.strip():
            raise JsonError("arguments that are no object")
        self._is_repaired |= reader.is_repaired
        self._writer.write("".join(token.written for token in tokens))
