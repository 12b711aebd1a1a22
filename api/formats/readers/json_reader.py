"""Reads JSON while the model writes it: the tokens of one value, from text in chunks of any size.

The tokens read so far are always the beginning of valid JSON, so that they can be sent at once.
"""

import copy
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

SPACE = re.compile(r"[ \t\r\n]*")
WORD = re.compile(r'[^\s{}\[\]:,"]+')
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
PLAIN = re.compile(r'[^"\\\x00-\x1f]+')  # characters that need no escape in a string
ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
HIGH, LOW = re.compile(r"\\u[dD][89abAB]"), re.compile(r"\\u[dD][c-fC-F][0-9a-fA-F]{2}")
UNFINISHED_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")
UNFINISHED_LOW = re.compile(r"(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?\Z")

CLOSERS = {"{": "}", "[": "]"}
MAX_DEPTH = 200  # Python's own reader goes to about 1,000
MAX_WORD = 1000  # characters of a number, those of its fraction among them


class JsonError(ValueError):
    """The text is no JSON."""


class Kind(Enum):
    """The kind of a token."""

    OPEN = "open"
    CLOSE = "close"
    KEY = "key"
    STRING = "string"  # a part of a string, quotes included
    WORD = "word"  # a number, true, false or null


@dataclass(frozen=True, slots=True)
class Token:
    """A token of JSON, without space."""

    kind: Kind
    text: str
    depth: int  # number of objects and arrays around the token
    comma: str = ""  # the comma before the token, if there is one
    ends_value: bool = False  # the token is the last one of a value

    @property
    def written(self) -> str:
        """The token with its comma or colon."""
        return self.comma + self.text + (": " if self.kind is Kind.KEY else "")


class Place(Enum):
    """The part of JSON that may come next."""

    VALUE = "a value"
    FIRST = "the first entry of an object or array, or its end"
    NEXT = "the entry after a comma"
    COLON = "a colon"
    AFTER = "a comma, or the end of an object or array"


class JsonReader:
    """Reads one value and repairs small faults: raw line breaks in strings, a comma before a bracket."""

    def __init__(self) -> None:
        self.is_done = False
        self.is_repaired = False
        self.num_tokens = 0  # read so far; a string counts once it is closed
        self.in_string = False
        self._text = ""
        self._start = 0  # index in _text of its unread part
        self._closers: list[str] = []  # closing brackets of the open objects and arrays, outermost first
        self._place = Place.VALUE
        self._comma = ""
        self._key: list[str] | None = None  # the parts of a key whose colon has not come
        self._is_over = False  # no more text will come

    @property
    def unread(self) -> str:
        """The text that was taken and is part of no token yet."""
        return self._comma + "".join(self._key or ()) + self._text[self._start :]

    def read(self, text: str) -> Iterator[Token]:
        """Take more text and yield the complete tokens. Raises JsonError after the last valid token.

        Once the value `is_done`, the text after it is `unread`.
        """
        self._text = self._text[self._start :] + text
        self._start = 0
        while not self.is_done:
            before = self._start
            token = self._read_string() if self.in_string else self._read_token()
            if token is not None:
                yield token
            elif self._start == before:
                return

    def fork(self) -> "JsonReader":
        """Return an independent copy of the reader."""
        other = copy.copy(self)
        other._closers = [*self._closers]
        other._key = None if self._key is None else [*self._key]
        return other

    def close(self) -> Iterator[Token]:
        """End the text and yield the missing brackets. Raises JsonError when more is missing."""
        self._is_over = True
        if not self.in_string:
            yield from self.read("")  # a number at the end of the text is complete now
        if self.in_string or self._place not in (Place.AFTER, Place.FIRST):
            raise JsonError("the text ends too early")
        while self._closers:
            self.is_repaired = True
            yield self._close(self._closers[-1])

    def _read_token(self) -> Token | None:
        match = SPACE.match(self._text, self._start)
        assert match is not None, "space may be empty"
        self._start = match.end()
        char = self._text[self._start : self._start + 1]
        if char == '"':
            return self._open_string()
        if char in CLOSERS:
            return self._open(char)
        if char in ("}", "]"):
            token = self._close(char)
            self._start += 1
            return token
        if char in (",", ":"):
            return self._separate(char)
        return self._read_word() if char else None

    def _separate(self, char: str) -> Token | None:
        wanted = Place.AFTER if char == "," else Place.COLON
        if self._place is not wanted:
            raise JsonError(f"{char} in the wrong place")
        self._start += 1
        self.num_tokens += 1
        if char == ",":
            self._place, self._comma = Place.NEXT, ", "
            return None
        text = "".join(self._key or ())
        self._place, self._key = Place.VALUE, None
        return Token(Kind.KEY, text, len(self._closers), self._take_comma())

    def _open(self, char: str) -> Token:
        self._check_value()
        if len(self._closers) == MAX_DEPTH:
            raise JsonError("nested too deeply")
        self._start += 1
        self.num_tokens += 1
        token = Token(Kind.OPEN, char, len(self._closers), self._take_comma())
        self._closers.append(CLOSERS[char])
        self._place = Place.FIRST
        return token

    def _close(self, char: str) -> Token:
        if self._place in (Place.VALUE, Place.COLON) or self._closers[-1] != char:
            raise JsonError(f"{char} in the wrong place")
        self.is_repaired |= self._place is Place.NEXT
        self._comma = ""
        self._closers.pop()
        self._end_value()
        return Token(Kind.CLOSE, char, len(self._closers), ends_value=True)

    def _read_word(self) -> Token | None:
        self._check_value()
        match = WORD.match(self._text, self._start)
        if match is None:
            raise JsonError("no value")
        if len(match[0]) > MAX_WORD:  # which would be read again with each chunk
            raise JsonError("a word that is no value")
        if match.end() == len(self._text) and not self._is_over:
            return None  # the word may go on
        if not _is_word(match[0]):
            raise JsonError("a word that is no value")
        self._start = match.end()
        comma = self._take_comma()
        self._end_value()
        return Token(Kind.WORD, match[0], len(self._closers), comma, ends_value=True)

    def _open_string(self) -> Token | None:
        is_key = self._place in (Place.FIRST, Place.NEXT) and self._closers[-1] == "}"
        if not is_key:
            self._check_value()
        self._start += 1
        self.in_string = True
        if is_key:
            self._key = ['"']
            return None
        return Token(Kind.STRING, '"', len(self._closers), self._take_comma())

    def _read_string(self) -> Token | None:
        """Read the part of a string that has come."""
        parts = list(self._string_parts())
        if self._key is not None:
            self._key += parts
        if self._key is not None or not parts:
            return None
        return Token(Kind.STRING, "".join(parts), len(self._closers), ends_value=not self.in_string)

    def _string_parts(self) -> Iterator[str]:
        """Yield the parts that have come. Raises JsonError for a fault, unless valid parts come before it."""
        before = self._start
        while self.in_string:
            try:
                part = self._string_part()
            except JsonError:
                if self._start == before:
                    raise
                return
            if not part:
                return
            yield part

    def _string_part(self) -> str:
        """Read a complete part of a string; empty when there is none."""
        plain = PLAIN.match(self._text, self._start)
        if plain is not None:
            self._start = plain.end()
            return plain[0]
        char = self._text[self._start : self._start + 1]
        if char == '"':
            self._start += 1
            self.in_string = False
            self._end_string()
        elif char == "\\":
            return self._read_escape()
        elif char:
            self._start += 1
            self.is_repaired = True
            return json.dumps(char)[1:-1]
        return char

    def _end_string(self) -> None:
        if self._key is None:
            self._end_value()
        else:
            self.num_tokens += 1
            self._place = Place.COLON

    def _read_escape(self) -> str:
        match = ESCAPE.match(self._text, self._start)
        if match is None:
            if UNFINISHED_ESCAPE.match(self._text, self._start):
                return ""
            raise JsonError("no such escape")
        end, text = match.end(), match[0]
        if LOW.match(text):
            text = "?"  # half of a surrogate pair, which UTF-8 cannot hold
        elif HIGH.match(text):
            if UNFINISHED_LOW.match(self._text, end):
                return ""
            low = LOW.match(self._text, end)
            end, text = (low.end(), text + low[0]) if low else (end, "?")
        self._start = end
        return text

    def _check_value(self) -> None:
        in_array = self._place in (Place.FIRST, Place.NEXT) and self._closers[-1] == "]"
        if self._place is not Place.VALUE and not in_array:
            raise JsonError("a value in the wrong place")

    def _end_value(self) -> None:
        self.num_tokens += 1
        self._place = Place.AFTER
        self.is_done = not self._closers

    def _take_comma(self) -> str:
        comma, self._comma = self._comma, ""
        return comma


def _is_word(word: str) -> bool:
    if word in ("true", "false", "null"):
        return True
    return NUMBER.fullmatch(word) is not None and math.isfinite(float(word))
