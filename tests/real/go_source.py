"""Reads the values of literals in source text in Go: texts, numbers, lists, structs and maps."""

import re
from collections.abc import Iterator
from typing import Any

TOKEN = re.compile(
    r'(?P<space>\s+|//[^\n]*)|(?P<raw>`[^`]*`)|(?P<text>"(?:[^"\\]|\\.)*")|(?P<number>-?\d[\d.]*(?:e[+-]?\d+)?)'
    r"|(?P<word>\w+)|(?P<sign>:=|.)",
    re.DOTALL,
)
ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|(.))")
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
WORDS = {"true": True, "false": False, "nil": None}
CLOSED = {"(": ")", "{": "}", "[": "]"}


class NotALiteral(Exception):
    """What stands here is no value of a literal."""


class GoReader:
    """Reads values from a place in a text on. What is no literal is a dict with its name as `_type`."""

    def __init__(self, source: str, place: int = 0) -> None:
        self._tokens = _tokens(source[place:])
        self._advance()

    def value(self) -> Any:
        """Read a value; a struct or map is a dict, which has the name of its type as `_type`."""
        value = self._term()
        while self._is("+"):
            self._advance()
            more = self._term()
            value = value + more if isinstance(value, str) and isinstance(more, str) else {"_type": "+"}
        return value

    def _term(self) -> Any:
        kind, text = self._kind, self._text
        if self._is("&"):
            self._advance()
            return self._term()
        if kind in ("raw", "text", "number"):
            self._advance()
            return _literal(kind, text)
        if self._is("{"):
            return self._body("")
        name = self._type()
        if self._is("{"):
            return self._body(name)
        if self._is("("):
            return self._call(name)
        return WORDS.get(name, {"_type": name})

    def _call(self, name: str) -> Any:
        """Read a call: its only argument, as of a conversion, or a list of several."""
        self._advance()
        values = []
        while not self._is(")"):
            values.append(self.value())
            if self._is(","):
                self._advance()
        self._advance()
        return values[0] if len(values) == 1 else values or {"_type": name}

    def _type(self) -> str:
        """Read a type or a name with its package; structs' fields are passed over."""
        name = ""
        while self._kind in ("word", "sign") and (self._kind == "word" or self._text in "[]*."):
            if name.endswith("]") and self._is("["):
                break
            name += self._text
            struct = self._text in ("struct", "interface")
            self._advance()
            if struct:
                self._skip()
        if not name:
            raise NotALiteral(self._text)
        return name

    def _skip(self) -> None:
        depth = 0
        while True:
            depth += (self._text in CLOSED) - (self._text in CLOSED.values())
            self._advance()
            if depth == 0:
                return

    def _body(self, name: str) -> Any:
        """Read what stands between braces: a list, unless parts have keys."""
        self._advance()
        parts: list[Any] = []
        fields: dict[str, Any] = {}
        while not self._is("}"):
            key = self._key()
            if self._is(":"):
                self._advance()
                fields[key] = self.value()
            else:
                parts.append(key)
            if self._is(","):
                self._advance()
        self._advance()
        if name.startswith("[]") or parts:
            return parts
        return fields | ({"_type": name} if name and not name.startswith("map[") else {})

    def _key(self) -> Any:
        """Read a field's name, or a value."""
        if self._kind == "word" and self._text not in WORDS:
            name = self._type()
            if self._is(":"):
                return name
            if self._is("(") or self._is("{"):
                return self._call(name) if self._is("(") else self._body(name)
            return {"_type": name}
        return self.value()

    def _is(self, sign: str) -> bool:
        return self._kind == "sign" and self._text == sign

    def _advance(self) -> None:
        self._kind, self._text = next(self._tokens, ("end", ""))
        if self._kind == "end":
            raise NotALiteral("end")


def _tokens(source: str) -> Iterator[tuple[str, str]]:
    for found in TOKEN.finditer(source):
        if found.lastgroup and found.lastgroup != "space":
            yield found.lastgroup, found[0]


def _literal(kind: str, text: str) -> Any:
    if kind == "number":
        return float(text) if re.search(r"[.e]", text) else int(text)
    return text[1:-1] if kind == "raw" else ESCAPE.sub(_unescape, text[1:-1])


def _unescape(found: re.Match[str]) -> str:
    code = found[1] or found[2] or found[3]
    return chr(int(code, 16)) if code else ESCAPES.get(found[4], found[4])
