"""Reads and validates the bodies of requests."""

import asyncio
from typing import TypeVar

from starlette.requests import Request as HttpRequest

from .bounded_json import BadJson, bounded_json
from .errors import InvalidRequest
from .wire_base import Wire

LARGE_BODY_BYTES = 64 * 1024  # a smaller body takes less time to parse than to hand to a thread

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Body = TypeVar("Body", bound=Wire)


async def read_body(request: HttpRequest, kind: type[Body]) -> Body:
    """Read and validate a request's body; a large one is parsed in a thread.

    Raises InvalidRequest for what `bounded_json` refuses, and pydantic's ValidationError for JSON that is no
    `kind`.
    """
    raw = await request.body()
    if len(raw) < LARGE_BODY_BYTES:
        return parse_body(raw, kind)
    return await asyncio.to_thread(parse_body, raw, kind)


def parse_body(raw: bytes, kind: type[Body]) -> Body:
    """Parse and validate a body. Raises what `read_body` raises."""
    try:
        content = bounded_json(raw.removeprefix(BYTE_ORDER_MARK))
    except BadJson as error:
        if (
            error.reason == "escapes"
        ):  # clients that read these words, such as Claude Code, shorten the prompt
            raise InvalidRequest(f"prompt is too long: the body {error}", reason="prompt_too_long") from None
        raise InvalidRequest(f"the body {error}", reason=error.reason) from None
    return kind.model_validate(content)
