"""Reads and validates the bodies of requests."""

import asyncio
from typing import TypeVar

from pydantic_core import from_json
from starlette.requests import Request as HttpRequest

from .errors import InvalidRequest
from .lenient import bytes_without_lone_surrogates
from .wire_base import Wire

LARGE_BODY_BYTES = 64 * 1024  # a smaller body takes less time to parse than to hand to a thread

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Body = TypeVar("Body", bound=Wire)


async def read_body(request: HttpRequest, kind: type[Body]) -> Body:
    """Read and validate a request's body; a large one is parsed in a thread.

    Raises InvalidRequest for text that is not JSON (also for NaN, bad UTF-8 and nesting past 200 levels), and
    pydantic's ValidationError for JSON that does not fit `kind`.
    """
    raw = await request.body()
    if len(raw) < LARGE_BODY_BYTES:
        return parse_body(raw, kind)
    return await asyncio.to_thread(parse_body, raw, kind)


def parse_body(raw: bytes, kind: type[Body]) -> Body:
    """Parse and validate a body. Raises what `read_body` raises."""
    raw = raw.removeprefix(BYTE_ORDER_MARK)
    try:
        content = _parse(raw)
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", reason="invalid") from None
    return kind.model_validate(content)


def _parse(raw: bytes) -> object:
    try:
        return from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        if "hex escape" not in str(error):  # as the parser calls a surrogate without its partner
            raise
        return from_json(bytes_without_lone_surrogates(raw), allow_inf_nan=False)
