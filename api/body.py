"""Reads and validates the bodies of requests."""

import asyncio
from typing import TypeVar

from pydantic_core import from_json
from starlette.requests import Request as HttpRequest

from .errors import InvalidRequest
from .lenient import bytes_without_lone_surrogates, bytes_without_plain_escapes
from .wire_base import Wire

LARGE_BODY_BYTES = 64 * 1024  # a smaller body takes less time to parse than to hand to a thread

MAX_VALUES = 300_000
"""Most values of a body: the parser holds the interpreter's lock until it has all of them, here some 50 ms.

A value of a conversation takes a token at least, mostly dozens, so that a prompt of so many could not fit.
"""

MAX_ESCAPES = 700_000
"""Most escapes of characters that the parser is given, for the same reason: it takes 75 ns for each."""

BACKSLASH = ord("\\")

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Body = TypeVar("Body", bound=Wire)


async def read_body(request: HttpRequest, kind: type[Body]) -> Body:
    """Read and validate a request's body; a large one is parsed in a thread.

    Raises InvalidRequest for more than MAX_VALUES values, for text that is not JSON (also for NaN, bad UTF-8
    and nesting past 200 levels), and
    pydantic's ValidationError for JSON that does not fit `kind`.
    """
    raw = await request.body()
    if len(raw) < LARGE_BODY_BYTES:
        return parse_body(raw, kind)
    return await asyncio.to_thread(parse_body, raw, kind)


def parse_body(raw: bytes, kind: type[Body]) -> Body:
    """Parse and validate a body. Raises what `read_body` raises."""
    raw = raw.removeprefix(BYTE_ORDER_MARK)
    if _has_more_values(raw, MAX_VALUES):
        raise InvalidRequest(f"the body has more than {MAX_VALUES} values", reason="values")
    try:
        content = _parse(raw)
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", reason="invalid") from None
    return kind.model_validate(content)


def _has_more_values(raw: bytes, limit: int) -> bool:
    """Return whether JSON has more values than `limit`. Other threads go on meanwhile."""
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") <= limit:
        return False  # these may stand in strings as well, so that there are no more values than they
    num_values = place = 0
    while num_values <= limit and place < len(raw):
        quote = raw.find(b'"', place)
        end = len(raw) if quote < 0 else quote
        num_values += sum(raw.count(mark, place, end) for mark in (b",", b"[", b"{"))
        place = _string_end(raw, end + 1)
    return num_values > limit


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


def _parse(raw: bytes) -> object:
    if raw.count(b"\\u") > MAX_ESCAPES:
        raw = bytes_without_plain_escapes(raw)
    try:
        return from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        if "hex escape" not in str(error):  # as the parser calls a surrogate without its partner
            raise
        return from_json(bytes_without_lone_surrogates(raw), allow_inf_nan=False)
