"""What every request passes before its route: an id, the guard at the door, and the limit of its body.

All three are plain ASGI: nothing is buffered, streams and disconnects pass through.
"""

import hmac
import logging
import secrets

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .config import ServerConfig
from .errors import (
    ApiError,
    ClientGone,
    Forbidden,
    TooLarge,
    Unauthenticated,
    WrongMediaType,
    api_error,
    error_response,
)
from .metrics import Metrics

MAX_BODY_BYTES = 32 * 1024 * 1024  # as Anthropic's API

PUBLIC_PATHS = frozenset({"/", "/health"})  # answered without a key
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})

logger = logging.getLogger(__name__)


class RequestContext:
    """Gives each request an id, counts its response, and answers what nothing else has caught."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            problem = _translate(error, request_id)
            if status is not None:
                raise  # the answer is under way: the server breaks the connection, which the client sees
            self._metrics.rejected(problem)
            await error_response(problem, scope["path"], request_id)(scope, receive, send_with_id)
        finally:
            self._count(scope, ClientGone.status if status is None else status)

    def _count(self, scope: Scope, status: int) -> None:
        route = scope.get("route")
        self._metrics.response(scope["method"], getattr(route, "path", "other"), status)


class Guard:
    """Refuses strangers: foreign host names and origins, wrong keys, bodies that a web form could send."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._key = config.api_key.encode() if config.api_key is not None else None
        # A name that resolves to this machine is how a web page reaches a local server (DNS rebinding).
        # Elsewhere any name may be ours, and a key is required anyway.
        self._names = LOOPBACK_NAMES | {config.host} if config.is_loopback else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            self._check_host(headers)
            self._check_key(headers, scope["path"])
            _check_media_type(headers, scope["method"])
        await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._names is not None and _host_name(host) not in self._names:
            raise Forbidden("this host name is not served here: use 127.0.0.1 or localhost", reason="host")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Forbidden("requests from web pages are not served", reason="origin")

    def _check_key(self, headers: Headers, path: str) -> None:
        if self._key is None or path in PUBLIC_PATHS:
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        offered = [headers.get("x-api-key", ""), bearer.strip() if scheme.lower() == "bearer" else ""]
        # Header values are latin-1 here: back to the bytes that were sent. All are compared, at one speed.
        matches = [hmac.compare_digest(key.encode("latin-1"), self._key) for key in offered]
        if not any(matches):
            raise Unauthenticated("invalid API key", reason="key", headers={"x-should-retry": "false"})


class BodyLimit:
    """Refuses bodies above the limit before they are read in, whether they announce their length or not."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdigit() or int(length) > self._max_bytes:
            raise self._too_large()
        num_bytes = 0

        async def counting_receive() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, counting_receive, send)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"request body exceeds {self._max_bytes} bytes", reason="size")


def _check_media_type(headers: Headers, method: str) -> None:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if method == "POST" and media_type != "application/json":
        raise WrongMediaType("content-type must be application/json", reason="media_type")


def _host_name(host: str) -> str:
    """Cut the port off a Host header; brackets of an IPv6 address stay."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()


def _translate(error: Exception, request_id: str) -> ApiError:
    problem = api_error(error)
    if problem is not error and problem.status == ApiError.status:
        logger.error("request %s failed", request_id, exc_info=error)
    return problem
