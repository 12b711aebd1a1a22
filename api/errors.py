"""Errors as clients see them; the only file that maps exceptions to HTTP status codes.

    ApiError
    ├── InvalidRequest      400  the request cannot be served as it is
    ├── Unauthenticated     401  no key, or a wrong one
    ├── Forbidden           403  a foreign host name or origin
    ├── NotFound            404  no such route or model
    ├── MethodNotAllowed    405
    ├── TooLarge            413  the body exceeds the limit
    ├── WrongMediaType      415
    ├── RateLimited         429  a key has as many requests under way as it may
    ├── ClientGone          499  the client has closed the connection
    ├── EngineError         500  the engine failed, or the server has a bug
    └── Overloaded          529  the queue is full, or the server is stopping

The body of an error has the shape of Anthropic's API: `{"type": "error", "error": {"type", "message"},
"request_id"}`; on OpenAI's routes it has OpenAI's: `{"error": {"message", "type", "param", "code"}}`.
"""

import logging
import math
from collections.abc import Callable, Mapping
from typing import ClassVar

from fastapi import FastAPI
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from .. import PensieveError
from ..scheduler.exceptions import (
    EngineDown,
    EngineFailed,
    PromptTooLong,
    QueueFull,
    Stopping,
    UnclearSession,
    WaitedTooLong,
)
from ..scheduler.queue_forecast import MAX_RETRY_AFTER_S

UNAVAILABLE = 503  # also the answer of /health while the engine is down

ANTHROPIC_PATH = "/v1/messages"
OPENAI_PATHS = ("/v1/chat/completions", "/v1/completions")
RESPONSES_PATH = "/v1/responses"
CONVERSATIONS_PATH = "/v1/conversations"
OPENAI_FOLDERS = (f"{RESPONSES_PATH}/", f"{CONVERSATIONS_PATH}/")

# From an error's reason to the code that OpenAI's clients look for.
OPENAI_CODES = {
    "prompt_too_long": "context_length_exceeded",
    "model": "model_not_found",
    "key": "invalid_api_key",
    "key_limit": "rate_limit_exceeded",
    "queue_full": "server_overloaded",
    "wait": "server_overloaded",
    "previous_response": "previous_response_not_found",
}

logger = logging.getLogger(__name__)


class ApiError(PensieveError):
    """An error that is answered with an HTTP status; the base class of all errors in this file.

    reason: a label of the metrics, one of a small set of words.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"

    def __init__(
        self, message: str, *, reason: str = "other", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.headers = dict(headers or {})


class InvalidRequest(ApiError):
    """The request cannot be served as it is."""

    status = 400
    type = "invalid_request_error"


class Unauthenticated(ApiError):
    """The request has no key, or a wrong one."""

    status = 401
    type = "authentication_error"


class Forbidden(ApiError):
    """The request names a foreign host or origin."""

    status = 403
    type = "permission_error"


class NotFound(ApiError):
    """No route or model has the name."""

    status = 404
    type = "not_found_error"


class MethodNotAllowed(ApiError):
    """The route does not take the method."""

    status = 405
    type = "invalid_request_error"


class TooLarge(ApiError):
    """The body exceeds the limit."""

    status = 413
    type = "request_too_large"


class WrongMediaType(ApiError):
    """The body is not announced as JSON."""

    status = 415
    type = "invalid_request_error"


class RateLimited(ApiError):
    """The request's key has as many requests under way as it may."""

    status = 429
    type = "rate_limit_error"


class ClientGone(ApiError):
    """The client has closed the connection before its answer."""

    status = 499
    type = "api_error"


class EngineError(ApiError):
    """The engine failed, or the server has a bug."""

    status = 500
    type = "api_error"


class Overloaded(ApiError):
    """The server takes no request now, but will later."""

    status = 529
    type = "overloaded_error"


def too_many_requests(message: str, wait_s: float) -> RateLimited:
    """Return the error of a key's request too many. wait_s: seconds after which it may be sent again."""
    return RateLimited(message, reason="key_limit", headers={"retry-after": _retry_after(wait_s)})


def prompt_too_long(num_tokens: int, max_tokens: int) -> InvalidRequest:
    """Return the error of a prompt that does not fit; Claude Code compacts the conversation on this text."""
    return InvalidRequest(
        f"prompt is too long: {num_tokens} tokens > {max_tokens} maximum", reason="prompt_too_long"
    )


def api_error(error: Exception) -> ApiError:
    """Translate any exception to an ApiError. An unforeseen one becomes a 500 without details."""
    match error:
        case ApiError():
            return error
        case UnclearSession():
            kind = InvalidRequest if error.num_found else NotFound
            return kind(str(error), reason="session")
        case PromptTooLong():
            return prompt_too_long(error.num_tokens, error.max_tokens)
        case QueueFull():
            message = "the server's queue is full, try again later"
            headers = {"retry-after": _retry_after(error.retry_after_s)}
            return Overloaded(message, reason="queue_full", headers=headers)
        case WaitedTooLong():
            return Overloaded(f"{error}, try again later", reason="wait", headers={"retry-after": "10"})
        case Stopping():
            message = "the server is stopping, try again when it is back"
            return Overloaded(message, reason="stopping", headers={"retry-after": "10"})
        case EngineDown() | EngineFailed():
            return EngineError(f"the engine failed: {error}", reason="engine")
        case ValidationError():
            return InvalidRequest(_first_problem(error), reason="invalid")
        case ClientDisconnect():
            return ClientGone("the client closed the connection")
        case HTTPException():
            return _from_http(error)
        case _:
            return EngineError("internal server error")


def error_body(error: ApiError, request_id: str) -> dict[str, object]:
    """Return an error's JSON in Anthropic's form, for a response or for an event of a stream."""
    problem = {"type": error.type, "message": error.message}
    return {"type": "error", "error": problem, "request_id": request_id}


def openai_error_body(error: ApiError) -> dict[str, dict[str, object]]:
    """Return an error's JSON in OpenAI's form."""
    kind = "server_error" if error.status >= 500 else error.type
    code = OPENAI_CODES.get(error.reason)
    return {"error": {"message": error.message, "type": kind, "param": None, "code": code}}


def error_response(error: ApiError, path: str, request_id: str) -> JSONResponse:
    """Return an error's response, in the form of the API that `path` belongs to."""
    if path not in OPENAI_PATHS and not f"{path}/".startswith(OPENAI_FOLDERS):
        body = error_body(error, request_id)
        if not path.startswith(ANTHROPIC_PATH):  # the clients of both APIs may ask here, and both read this
            body["error"] = openai_error_body(error)["error"] | {"type": error.type}
        return JSONResponse(body, status_code=error.status, headers=error.headers)
    # 529 is a status of Anthropic's API only.
    status = UNAVAILABLE if isinstance(error, Overloaded) else error.status
    return JSONResponse(openai_error_body(error), status_code=status, headers=error.headers)


def add_error_handlers(app: FastAPI, rejected: Callable[[ApiError], None]) -> None:
    """Register handlers that answer a route's foreseen exceptions; RequestContext answers the others.

    rejected: called with the error of each refused request.
    """

    async def handle_error(request: Request, error: Exception) -> JSONResponse:
        problem = api_error(error)
        if isinstance(problem, EngineError):
            logger.error("request %s failed: %s", request.state.request_id, error)
        elif not isinstance(problem, ClientGone):
            rejected(problem)
        return error_response(problem, request.url.path, request.state.request_id)

    for kind in (PensieveError, ValidationError, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, handle_error)


def _from_http(error: HTTPException) -> ApiError:
    """Translate an exception that the router raises, for an unknown route or method."""
    if error.status_code == MethodNotAllowed.status:
        return MethodNotAllowed("method not allowed", reason="route", headers=error.headers)
    if error.status_code == NotFound.status:
        return NotFound("no such route", reason="route")
    return (
        InvalidRequest("malformed request")
        if error.status_code < 500
        else EngineError("internal server error")
    )


def _retry_after(wait_s: float) -> str:
    """Return seconds as the header has them: whole ones, and no more than a client waits for."""
    return str(max(1, math.ceil(min(wait_s, MAX_RETRY_AFTER_S))))


def _first_problem(error: ValidationError) -> str:
    """Return one line that names the first wrong field of the body, without quoting the body."""
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in _wire_path(problem["loc"]))
    text = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {text}"[:500] if place else text[:500]


def _wire_path(loc: tuple[int | str, ...]) -> list[int | str]:
    """Return an error's location without the names of union branches, which the body does not hold."""
    return [part for i, part in enumerate(loc) if i < 2 or loc[i - 2] not in ("messages", "input", "content")]
