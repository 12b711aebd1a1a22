"""Reads calls written in JSON and sends their arguments to the client token by token."""

import json
from collections.abc import Collection

from .json_reader import JsonError, JsonReader, Kind, Token
from .streamed_json_calls import StreamedJsonCalls

NAME_KEYS = ("name", "tool_name")
ARGUMENT_KEYS = ("arguments", "parameters", "input")


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
        surplus = " \t\r\n,;}]" if self._num_calls else " \t\r\n"  # stray ones after a call
        text = self._unread.lstrip(surplus)
        skipped = self._unread[: len(self._unread) - len(text)]
        self._is_repaired |= skipped.strip() not in ("", ";")  # Llama 3 writes one between calls
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
            self._take_key(json.loads(token.text))
        else:
            self._take_value(token)

    def _take_key(self, key: str) -> None:
        """Take a key of the call's object."""
        self._key = key

    def _take_value(self, token: Token) -> None:
        """Take a token of the value of the call's latest key."""
        if self._key in NAME_KEYS:
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
            return  # a second name is ignored
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
        """Read arguments that are JSON text within a JSON string."""
        reader = JsonReader()
        tokens = [*reader.read(text), *reader.close()]
        if tokens[0].text != "{" or reader.unread.strip():
            raise JsonError("arguments that are no object")
        self._is_repaired |= reader.is_repaired
        self._writer.write("".join(token.written for token in tokens))


class KeyedJsonCalls(JsonCalls):
    """Reads calls that are JSON objects of one key, the tool's name, with the arguments as its value."""

    def _take_key(self, key: str) -> None:
        if self._writer.is_open:
            self._end_call()
        self._quoted = []
        self._writer.start(key)

    def _take_value(self, token: Token) -> None:
        if not self._has_arguments:
            self._take_argument(token)
