"""Reads JSON that clients send, within bounds that let other threads go on.

The parser holds the interpreter's lock until it has read all of a text.
"""

import re
from collections.abc import Callable, Iterator

from pydantic_core import from_json

MAX_VALUES = 300_000
"""Most values of a body: the parser holds the interpreter's lock until it has all of them, here some 50 ms.

A value of a conversation takes a token at least, mostly dozens, so that a prompt of so many could not fit.
"""

MAX_ESCAPES = 4_000_000
"""Most escapes of a body, for the same reason: the parser takes up to 12 ns for each.

JSON of 4 MB, as a text in a text in a text in a text, has 3 million of them.
"""

MAX_NUMBERS = 700_000
"""Most escapes of characters by their numbers that the parser is given: it takes up to 26 ns for each."""

PIECE = 1024 * 1024  # bytes that are looked through before other threads may go on

BACKSLASH = ord("\\")

# What stands behind the backslash of an escape: halves of a pair of surrogates, and others.
HIGH, LOW = r"u[dD][89abAB][0-9a-fA-F]{2}", r"u[dD][c-fC-F][0-9a-fA-F]{2}"
PAIR, ALONE = rf"{HIGH}\\{LOW}", rf"(?:{HIGH}(?!\\{LOW})|{LOW})"
NO_SURROGATE = r"(?:u(?![dD][89a-fA-F])|[^u])"
PLAIN = rf"(?:{PAIR}|u(?!00[01]|0022|005[cC]|[dD][89a-fA-F])[0-9a-fA-F]{{4}})"  # may stand in JSON as it is
STAYING = rf"(?:{ALONE}|u00[01][0-9a-fA-F]|u0022|u005[cC]|[^u])"  # may not


def _in_a_row(form: str) -> str:
    """Match up to 5,000 escapes. Between two matches, other threads go on."""
    return rf"{form}(?:\\{form}){{0,4999}}"


LONE_ROW = re.compile(
    rf"\\(?:({_in_a_row(ALONE)})|{_in_a_row(f'(?:{PAIR}|{NO_SURROGATE})')})".encode(), re.DOTALL
)
PLAIN_ROW = re.compile(rf"\\(?:({_in_a_row(PLAIN)})|{_in_a_row(STAYING)})".encode(), re.DOTALL)


def without_lone_surrogates(raw: bytes) -> bytes:
    """Put U+FFFD in the place of each lone surrogate that JSON escapes, as JavaScript clients do."""
    return _rewritten(raw, LONE_ROW, _replaced)


def _replaced(escapes: bytes) -> bytes:
    return b"\xef\xbf\xbd" * (len(escapes) // len(r"\ud800"))


def without_plain_escapes(raw: bytes) -> bytes:
    """Put characters in the place of their escapes in the bytes of JSON, as far as they may stand there."""
    return _rewritten(raw, PLAIN_ROW, _unescaped)


def _unescaped(escapes: bytes) -> bytes:
    return str(from_json(b'"%s"' % escapes)).encode()


def _rewritten(raw: bytes, row: re.Pattern[bytes], rewrite: Callable[[bytes], bytes]) -> bytes:
    """Rewrite the rows of escapes in which the first group is found.

    Other threads go on between rows. `re.sub` holds them up at its end, where it joins millions of parts.
    """
    written = bytearray()
    num_written = place = 0
    while (place := raw.find(b"\\", place)) >= 0:
        found = row.match(raw, place)
        if found is not None and found[1]:
            written += raw[num_written:place]
            written += rewrite(found[0])
            num_written = found.end()
        place = place + 1 if found is None else found.end()
    written += raw[num_written:]
    return bytes(written)


class BadJson(ValueError):
    """A text is not JSON, or more than may be read. reason: a label of the metrics."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def bounded_json(raw: bytes) -> object:
    """Return the value of JSON, with U+FFFD for each surrogate without its partner.

    Raises BadJson for more than MAX_VALUES values or MAX_ESCAPES escapes, for text that is not JSON, also
    for NaN, bad UTF-8 and nesting past 200 levels.
    """
    if _has_more_values(raw, MAX_VALUES):
        raise BadJson(f"has more than {MAX_VALUES} values", "values")
    num_numbers = _count(raw, b"\\u")
    _check_escapes(_num_escapes(raw) - num_numbers)
    if num_numbers > MAX_NUMBERS:
        raw = without_plain_escapes(raw)
    _check_escapes(_num_escapes(raw))
    try:
        return _parse(raw)
    except ValueError as error:
        raise BadJson(f"is not valid JSON: {error}", "invalid") from None


def _check_escapes(number: int) -> None:
    if number > MAX_ESCAPES:
        raise BadJson(f"has more than {MAX_ESCAPES} escapes", "escapes")


def _num_escapes(raw: bytes) -> int:
    """Count the escapes of a body: of two backslashes, one is escaped."""
    return _count(raw, b"\\") - _count(raw, b"\\\\")


def _parse(raw: bytes) -> object:
    try:
        return from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        if "hex escape" not in str(error):  # as the parser calls a surrogate without its partner
            raise
        return from_json(without_lone_surrogates(raw), allow_inf_nan=False)


def _has_more_values(raw: bytes, limit: int) -> bool:
    """Return whether JSON has more values than `limit`. Other threads go on meanwhile."""
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") <= limit:
        return False  # these may stand in strings as well, so that there are no more values than they
    num_values = 0
    for start, end in outside_strings(raw):
        num_values += sum(raw.count(mark, start, end) for mark in (b",", b"[", b"{"))
        if num_values > limit:
            return True
    return False


def outside_strings(raw: bytes) -> Iterator[tuple[int, int]]:
    """Yield the starts and ends of what stands between strings in JSON. Other threads go on meanwhile."""
    place = 0
    while place < len(raw):
        quote = raw.find(b'"', place)
        end = len(raw) if quote < 0 else quote
        yield place, end
        place = _string_end(raw, end + 1)


def _string_end(raw: bytes, place: int) -> int:
    """Return the place behind a string of JSON whose first character is at `place`."""
    while (quote := raw.find(b'"', place)) >= 0:
        first = quote  # of the backslashes before it, each of which may escape the next one
        while raw[first - 1] == BACKSLASH:
            first -= 1
        place = quote + 1
        if (quote - first) % 2 == 0:
            return place
    return len(raw)


def _count(raw: bytes, text: bytes) -> int:
    """Count a text in the pieces of a body, all but those on borders. Other threads go on meanwhile."""
    return sum(raw.count(text, place, place + PIECE) for place in range(0, len(raw), PIECE))
