"""Reads calls in Python's syntax: `[read(path="a.py", limit=5)]`, also with values that Python would refuse.

Models write line breaks and NUL within strings, numbers that begin with zeros, words without quotes, JSON's
`true`, and quotes within quotes. A quote ends a string if what follows it can follow a value there.
"""

import re
import sys
from typing import Any

CALL = re.compile(r"[\s\[,;]*([^\W\d][\w.-]*)\s*\(\s*")
KEY = re.compile(r"([^\W\d]\w*)\s*=\s*")
SPACE, COLON = re.compile(r"\s*"), re.compile(r"\s*:\s*")
COMMA, CLOSE, END = re.compile(r"\s*,\s*"), re.compile(r"\s*\)"), re.compile(r"[\s\],;]*\Z")
AFTER_ARGUMENT = re.compile(r"\s*(?:,\s*(?:[^\W\d]\w*\s*=|\))|\)\s*(?:[\],;]|\Z))")
AFTER_ITEM = re.compile(r"\s*[,:\]})]")
BARE_ARGUMENT, BARE_ITEM = re.compile(r"[^,()\[\]{}]+"), re.compile(r"[^,:()\[\]{}'\"]+")
QUOTES = {mark: re.compile(rf"\\.|{mark}", re.DOTALL) for mark in ("'''", '"""', "'", '"')}
ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{1,3}|.)", re.DOTALL)
SURROGATE = re.compile("[\ud800-\udfff]")
LETTERS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\n": ""}
LETTERS |= {char: char for char in "\\'\""}
WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
NUMBER = re.compile(r"[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
CLOSERS = {"[": "]", "(": ")", "{": "}"}


def read_python_calls(text: str, _tools: Any = None) -> list[dict[str, Any]]:
    """Read the calls of a body. Raises ValueError where it is no list of calls."""
    return _PythonText(text).calls()


class _PythonText:
    """A text, and the place up to which it is read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0

    def calls(self) -> list[dict[str, Any]]:
        calls = []
        while call := self._take(CALL):
            calls.append({"name": call[1], "arguments": self._arguments()})
        if not calls or not self._take(END):
            raise ValueError("no calls")
        return calls

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        while key := self._take(KEY):
            arguments[key[1]] = self._value(AFTER_ARGUMENT, BARE_ARGUMENT)
            if not self._take(COMMA):
                break
        self._need(CLOSE)
        return arguments

    def _value(self, after: re.Pattern[str], bare: re.Pattern[str]) -> Any:
        """Read a value. after: matches what may follow a string. bare: matches a word without quotes."""
        mark = next((mark for mark in QUOTES if self._text.startswith(mark, self._place)), "")
        if mark:
            return self._string(mark, after)
        opener = self._text[self._place : self._place + 1]
        if opener in CLOSERS:
            self._place += 1
            return self._container(CLOSERS[opener])
        return _scalar(self._need(bare)[0].strip())

    def _string(self, mark: str, after: re.Pattern[str]) -> str:
        start = self._place + len(mark)
        for found in QUOTES[mark].finditer(self._text, start):
            if found[0] == mark and after.match(self._text, found.end()):
                self._place = found.end()
                return _joined(ESCAPE.sub(_unescape, self._text[start : found.start()]))
        raise ValueError("a string without end")

    def _container(self, closer: str) -> Any:
        """Read the rest of a list, a tuple or a set, which is a list too, or of a dictionary."""
        end = re.compile(rf"\s*{re.escape(closer)}")
        items: list[Any] = []
        pairs: dict[str, Any] = {}
        is_dict = closer == "}"
        while not self._take(end):
            self._take(SPACE)
            item = self._value(AFTER_ITEM, BARE_ITEM)
            if is_dict and not items and self._take(COLON):
                pairs[item if isinstance(item, str) else str(item)] = self._value(AFTER_ITEM, BARE_ITEM)
            else:
                items.append(item)
            if not self._take(COMMA):
                self._need(end)
                break
        if items and pairs:
            raise ValueError("a dictionary with items")
        return pairs if is_dict and not items else items

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._place)
        self._place = found.end() if found else self._place
        return found

    def _need(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = self._take(pattern)
        if found is None:
            raise ValueError("no call")
        return found


def _unescape(found: re.Match[str]) -> str:
    """Return what an escape stands for; one that Python does not know stands for itself."""
    kind = found[1]
    if len(kind) > 1 or kind.isdigit():
        digits = kind if kind[0].isdigit() else kind[1:]
        number = int(digits, 8 if kind[0].isdigit() else 16)
        return chr(number) if number <= sys.maxunicode else found[0]
    return LETTERS.get(kind, found[0])


def _joined(text: str) -> str:
    """Return a text with the characters that pairs of surrogates stand for, as JSON writes them."""
    if not SURROGATE.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _scalar(text: str) -> Any:
    """Return what a word without quotes stands for: a number, a word of Python or JSON, else a text."""
    if text in WORDS:
        return WORDS[text]
    if not NUMBER.fullmatch(text):
        return text
    try:
        return int(text)
    except ValueError:
        return float(text)
