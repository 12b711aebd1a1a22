"""Reads and checks the bodies of requests."""

import asyncio
from typing import TypeVar

from pydantic_core import from_json
from starlette.requests import Request as HttpRequest

from .errors import InvalidRequest
from .schema import Wire

LARGE_BODY_BYTES = 64 * 1024  # parsing less takes no longer than handing it to a thread

Body = TypeVar("Body", bound=Wire)


async def read_body(request: HttpRequest, kind: type[Body]) -> Body:
    """Read and check a request's body, large ones off the event loop.

    Raises InvalidRequest for what is no JSON (NaN, bad UTF-8 and nesting past 200 levels are none here), and
    pydantic's ValidationError for JSON of another form.
    """
    raw = await request.body()
    if len(raw) < LARGE_BODY_BYTES:
        return parse_body(raw, kind)
    return await asyncio.to_thread(parse_body, raw, kind)


def parse_body(raw: bytes, kind: type[Body]) -> Body:
    """Check a body; see `read_body`."""
    try:
        content = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", reason="invalid") from None
    return kind.model_validate(content)
