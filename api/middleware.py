"""The ASGI middleware before every route: request ids, checks of headers, and the limit of the body.

No middleware buffers anything: streams and disconnects pass through.
"""

import asyncio
import logging
import re
import secrets
from contextlib import ExitStack

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import PensieveError
from ..scheduler.exceptions import Stopping
from .api_keys import ApiKey, ApiKeys
from .config import ServerConfig
from .errors import (
    RESPONSES_PATH,
    ApiError,
    ClientGone,
    Forbidden,
    InvalidRequest,
    TooLarge,
    WrongMediaType,
    api_error,
    error_response,
)
from .metrics import Metrics
from .origins import AllowedOrigins
from .queue_gate import GENERATING_PATHS

MAX_BODY_BYTES = 32 * 1024 * 1024  # as Anthropic's API

MAX_LOGGED_CHARS = 200  # of a path

PUBLIC_PATHS = frozenset({"/", "/api/hello", "/health"})  # answered without a key
LIMITED_PATHS = GENERATING_PATHS | {f"{RESPONSES_PATH}/compact"}
"""Paths at which a POST counts for the limit of its key."""

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
MAX_NAME_CHARS = 253  # of a host's name in DNS
HOST_HEADER = re.compile(r"([\w.-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?", re.ASCII)

logger = logging.getLogger(__name__)


class RequestContext:
    """Gives each request an id, counts its response, and answers exceptions that no handler has caught.

    Slashes at the end of a path are taken off.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; its id is `scope["state"]["request_id"]`, and a header of the response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["path"] = scope["path"].rstrip("/") or "/"
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
        except asyncio.CancelledError:
            # uvicorn cancels what is left at the server's stop, and would log where each request was.
            if status is None:
                stopping = api_error(Stopping("the server is stopping"))
                await error_response(stopping, scope["path"], request_id)(scope, receive, send_with_id)
        except Exception as error:
            problem = _translate(error, request_id)
            if status is not None:
                raise  # the response has begun: uvicorn breaks the connection, which the client notices
            self._metrics.rejected(problem)
            await error_response(problem, scope["path"], request_id)(scope, receive, send_with_id)
        finally:
            self._count(scope, ClientGone.status if status is None else status)

    def _count(self, scope: Scope, status: int) -> None:
        # Without the query, in which some clients send keys, and with its escapes, which may be line breaks.
        asked = scope.get("raw_path", b"").decode("latin-1")[:MAX_LOGGED_CHARS]
        logger.debug("%s %s is answered with status %d", scope["method"], asked, status)
        # A request that is refused before it is routed has a path of a small set.
        path: str = scope["path"] if scope["path"] in GENERATING_PATHS else "other"
        self._metrics.response(scope["method"], getattr(scope.get("route"), "path", path), status)


class Guard:
    """Refuses foreign host names and origins, wrong keys, and bodies that a web form could send."""

    def __init__(self, app: ASGIApp, config: ServerConfig, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys
        # Against DNS rebinding: a web page could reach a loopback server by a name that resolves to this
        # machine. A server for other machines may have any name, and requires a key.
        names = LOOPBACK_NAMES | {config.host.lower()} | {name.lower() for name in config.allow_host}
        self._names = names if config.is_loopback and "*" not in names else None
        self._origins = AllowedOrigins(config.allow_origin)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on.

        The digest of the key that let it in is `scope["state"]["key"]`; empty where none is asked for. The
        key's account is `scope["state"]["account"]`, and what holds its place `scope["state"]["key_place"]`.
        Raises InvalidRequest, Forbidden, Unauthenticated, WrongMediaType or RateLimited.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, state = Headers(scope=scope), scope["state"]
        _check_framing(headers)
        self._check_host(headers)
        key = self._key_of(headers, scope["path"])
        _check_media_type(headers, scope["method"])
        state["key"], state["account"] = key.digest, key.account
        with ExitStack() as held:
            if scope["method"] == "POST" and scope["path"] in LIMITED_PATHS:
                held.enter_context(key.places.hold(key.account.name))
            state["key_place"] = held
            await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "")
        name = _host_name(host)
        if self._names is not None and not _is_named(name, self._names):
            shown = f"--allow-host {name[:100]}" if name else "--allow-host NAME"
            raise Forbidden(
                f"the host name {host[:100]!r} is not served: use 127.0.0.1 or localhost, "
                f"or start the server with {shown}",
                reason="host",
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host and origin not in self._origins:
            raise Forbidden(
                f"requests from the origin {origin[:100]!r} are not served: start the server with "
                f"--allow-origin {origin[:100]}",
                reason="origin",
            )

    def _key_of(self, headers: Headers, path: str) -> ApiKey:
        """Return the key that a request has. Raises Unauthenticated."""
        if path in PUBLIC_PATHS:
            return ApiKey()
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        offered = [headers.get("x-api-key", ""), bearer.strip() if scheme.lower() == "bearer" else ""]
        return self._keys.find(key.encode("latin-1") for key in offered)  # as header values are decoded


class BodyLimit:
    """Refuses a body above the limit before all of it is in memory, with or without a content-length."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on. Raises TooLarge."""
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


def _check_framing(headers: Headers) -> None:
    """Refuse a body of two lengths: a proxy that reads the other one would let a second request through."""
    if "transfer-encoding" in headers and "content-length" in headers:
        raise InvalidRequest(
            "content-length and transfer-encoding exclude one another", headers={"connection": "close"}
        )


def _check_media_type(headers: Headers, method: str) -> None:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if method == "POST" and media_type != "application/json":
        raise WrongMediaType("content-type must be application/json", reason="media_type")


def _host_name(host: str) -> str:
    """Return a Host header without its port, in small letters; an IPv6 address keeps its brackets.

    Returns an empty name for what is no host.
    """
    found = HOST_HEADER.fullmatch(host.lower())
    return found[1] if found else ""


def _is_named(name: str, names: frozenset[str]) -> bool:
    """Return whether a name is among `names`, or lies under one that begins with `*.`."""
    if len(name) > MAX_NAME_CHARS:
        return False
    parents = {f"*.{name.split('.', count)[count]}" for count in range(1, name.count(".") + 1)}
    return bool(name) and not names.isdisjoint({name} | parents)


def _translate(error: Exception, request_id: str) -> ApiError:
    problem = api_error(error)
    if problem is not error and problem.status == ApiError.status:
        known = isinstance(error, PensieveError)  # the raising code has logged its cause
        logger.error("request %s failed: %s", request_id, error, exc_info=None if known else error)
    return problem
