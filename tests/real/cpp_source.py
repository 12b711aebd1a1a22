"""Runs as much of C++ as llama.cpp's chat tests need to name their cases: texts, lists, loops, chained calls.

Statements of other kinds are passed over, and so are the blocks of conditions.
"""

import re
from collections.abc import Callable
from typing import Any

TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*.*?\*/|\#[^\n]*)
    |R"(?P<mark>[^()\s]*)\((?P<raw>.*?)\)(?P=mark)"
    |(?P<text>"(?:[^"\\]|\\.)*"(?:s\b)?)|(?P<char>'(?:[^'\\]|\\.)+')
    |(?P<name>[A-Za-z_]\w*(?:::\w+)*)|(?P<number>-?\d[\w.]*)|(?P<sign>->|<<|==|!=|&&|\|\||.)""",
    re.VERBOSE | re.DOTALL,
)
ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]+)|u([0-9a-fA-F]{4})|(.))", re.DOTALL)
LETTERS = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}
CLOSERS = {"{": "}", "(": ")", "[": "]"}
TYPES = {"common_chat_tool", "common_chat_msg", "std::string", "auto", "char", "std::vector"}
LITERALS = {"true": True, "false": False, "nullptr": None}

Token = tuple[str, str]
"""A token's kind and its text; the content, of a string."""


class Unknown(Exception):
    """The source holds more than this module knows."""


def tokens_of(source: str) -> list[Token]:
    """Split a source into its tokens."""
    found = []
    for match in TOKEN.finditer(source):
        kind = match.lastgroup or ""
        if match["raw"] is not None:
            found.append(("text", match["raw"]))
        elif kind == "text":
            found.append(("text", _unescape(match["text"].removesuffix("s")[1:-1])))
        elif kind != "skip":
            found.append((kind, match[0]))
    return found


def _unescape(text: str) -> str:
    """Decode a string's escapes; those of bytes are UTF-8."""

    def one(match: re.Match[str]) -> bytes:
        if match[1]:
            return bytes([int(match[1], 16)])
        char = chr(int(match[2], 16)) if match[2] else LETTERS.get(match[3], match[3])
        return char.encode()

    parts, place = [], 0
    for match in ESCAPE.finditer(text):
        parts += [text[place : match.start()].encode(), one(match)]
        place = match.end()
    return b"".join([*parts, text[place:].encode()]).decode()


class Source:
    """One source file: its values and functions by name.

    calls: functions whose calls have a value. new_value: makes a value of a type from those in its braces.
    """

    def __init__(
        self,
        source: str,
        calls: dict[str, Callable[..., Any]],
        new_value: Callable[[str, list[Any]], Any],
    ) -> None:
        self._tokens = [*tokens_of(source), ("end", "")]
        self._calls = calls
        self._new_value = new_value
        self._place = 0
        self._scopes: list[dict[str, Any]] = [{}]
        self._functions: dict[str, tuple[list[str], int]] = {}  # parameters, and the place of the body
        self._run_until(len(self._tokens) - 1)

    def call(self, name: str, *values: Any) -> None:
        """Run a function that the file defines."""
        parameters, body = self._functions[name]
        before, self._place = self._place, body + 1
        self._scopes.append(dict(zip(parameters, values, strict=False)))
        self._run_until(self._end_of(body))
        self._scopes.pop()
        self._place = before

    def _run_until(self, end: int) -> None:
        while self._place < end:
            start = self._place
            try:
                self._statement()
            except Unknown:
                self._place = start
                self._pass_over()

    def _statement(self) -> None:
        kind, text = self._tokens[self._place]
        if text == "{" and kind == "sign":
            self._block(self._place)
        elif text == "for" and kind == "name":
            self._loop()
        elif text in self._calls and self._next(1) == "(":
            self._value()
        elif text in self._functions and self._next(1) == "(":
            self._place += 1
            self.call(text, *self._list("("))
        elif text == "void" or self._next(1) == "void":
            self._define_function()
        elif kind == "name" and self._next(1) == "." and self._next(3) == "=":
            fields, name = self._value_of(text), self._next(2)
            self._place += 4
            fields[name] = self._value()
        elif kind == "name" and self._next(1) == ".":
            self._value()
        else:
            self._declare()

    def _block(self, start: int) -> None:
        end = self._end_of(start)
        self._place = start + 1
        self._scopes.append({})
        self._run_until(end)
        self._scopes.pop()
        self._place = end + 1

    def _loop(self) -> None:
        """Run `for (TYPE NAME : {VALUES}) {…}`."""
        head_end = self._end_of(self._place + 1)
        while self._next(0) != ":":
            self._place += 1
            if self._place >= head_end:
                raise Unknown
        name = self._next(-1)
        self._place += 1
        values = self._value()
        for value in values:
            self._scopes.append({name: value})
            self._block(head_end + 1)
            self._scopes.pop()

    def _define_function(self) -> None:
        while self._next(0) != "(":
            self._place += 1
        name, end = self._next(-1), self._end_of(self._place)
        inner = range(self._place + 1, end)
        parameters = [self._tokens[i][1] for i in inner if self._tokens[i + 1][1] in (",", ")")]
        if self._tokens[end + 1][1] != "{":
            raise Unknown
        self._functions[name] = (parameters, end + 1)
        self._place = self._end_of(end + 1) + 1

    def _declare(self) -> None:
        while self._next(0) in ("static", "const", "constexpr"):
            self._place += 1
        kind = self._next(0)
        if kind not in TYPES:
            raise Unknown
        self._place += 1
        if self._next(0) == "<":
            kind = f"{kind}<{self._next(1)}>"
            self._place += 3
        while self._next(0) in ("*", "&", "const"):
            self._place += 1
        name = self._next(0)
        self._place += 1
        if self._next(0) == "=":
            self._place += 1
            value = self._value()
        elif self._next(0) == "{":
            value = self._new_value(kind, self._list("{"))
        elif self._next(0) == ";":
            value = self._new_value(kind, [])
        else:
            raise Unknown
        if self._next(0) != ";":
            raise Unknown
        self._scopes[-1][name] = value

    def _value(self) -> Any:
        value = self._operand()
        while self._next(0) == "+":
            self._place += 1
            value += self._operand()
        return value

    def _operand(self) -> Any:
        kind, text = self._tokens[self._place]
        if kind == "text":
            parts = []
            while self._tokens[self._place][0] == "text":
                parts.append(self._next(0))
                self._place += 1
            return "".join(parts)
        if text in ("{", "("):
            values = self._list(text)
            return values if text == "{" else values[0]
        self._place += 1
        if kind == "number":
            return text
        if kind != "name":
            raise Unknown
        return self._chain(self._named(text))

    def _named(self, name: str) -> Any:
        if self._next(0) == "(":
            if name not in self._calls:
                raise Unknown
            return self._calls[name](*self._list("("))
        if name == "std::vector" and self._next(0) == "<":
            self._place += 3
        if self._next(0) == "{":
            return self._new_value(name, self._list("{"))
        return LITERALS[name] if name in LITERALS else self._value_of(name)

    def _chain(self, value: Any) -> Any:
        """Read `.method(values)` and `.field`, as often as they come."""
        while self._next(0) == "." and self._tokens[self._place + 1][0] == "name":
            name = self._next(1)
            self._place += 2
            if self._next(0) != "(":
                value = value[name]
            else:
                values = self._list("(")
                if not hasattr(value, name):
                    raise Unknown
                value = getattr(value, name)(*values)
        return value

    def _value_of(self, name: str) -> Any:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        if name.isupper():
            return name  # a constant of an enumeration
        raise Unknown

    def _list(self, opening: str) -> list[Any]:
        values = []
        self._place += 1
        while self._next(0) != CLOSERS[opening]:
            values.append(self._value())
            if self._next(0) == ",":
                self._place += 1
            elif self._next(0) != CLOSERS[opening]:
                raise Unknown
        self._place += 1
        return values

    def _pass_over(self) -> None:
        """Go behind the statement: to its semicolon, or behind its block."""
        while self._tokens[self._place][0] != "end":
            text = self._next(0) if self._tokens[self._place][0] == "sign" else ""
            if text in CLOSERS:
                self._place = self._end_of(self._place)
            self._place += 1
            if text == ";" or (text == "{" and self._next(0) not in (";", ",", ")", ".")):
                return

    def _next(self, distance: int) -> str:
        return self._tokens[min(self._place + distance, len(self._tokens) - 1)][1]

    def _end_of(self, place: int) -> int:
        """Return the place of the bracket that closes the one at `place`."""
        depth = 0
        for i in range(place, len(self._tokens)):
            kind, text = self._tokens[i]
            if kind == "sign" and text in CLOSERS:
                depth += 1
            elif kind == "sign" and text in CLOSERS.values():
                depth -= 1
                if not depth:
                    return i
        raise Unknown
