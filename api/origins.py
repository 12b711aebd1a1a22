"""Which pages and apps of other origins may use the server, and the headers that tell browsers so (CORS)."""

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ANY = "*"

METHODS = b"GET, HEAD, POST, DELETE, OPTIONS"
EXPOSED = b"request-id, retry-after, x-pensieve-cache"
PREFLIGHT_AGE_S = b"600"  # for which a browser remembers the answer to a preflight request


class AllowedOrigins:
    """The origins that the user has allowed."""

    def __init__(self, origins: Iterable[str]) -> None:
        """origins: each as `scheme://host[:port]`, or `*` for all."""
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    def __contains__(self, origin: str) -> bool:
        return ANY in self._origins or origin.lower() in self._origins


class CrossOrigin:
    """Answers the preflight requests of allowed origins, and adds CORS headers to their responses.

    Other origins get no such header; `Guard` refuses their requests.
    """

    def __init__(self, app: ASGIApp, origins: AllowedOrigins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        origin = headers.get("origin")
        if origin is None or origin not in self._origins:
            await self._app(scope, receive, send)
            return
        more = [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            more += _preflight_headers(headers)
            await send({"type": "http.response.start", "status": 204, "headers": more})
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                exposed = (b"access-control-expose-headers", EXPOSED)
                message["headers"] = [*message.get("headers", ()), *more, exposed]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _preflight_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    found = [(b"access-control-allow-methods", METHODS), (b"access-control-max-age", PREFLIGHT_AGE_S)]
    wanted = headers.get("access-control-request-headers")
    if wanted is not None:
        found.append((b"access-control-allow-headers", wanted.encode("latin-1")))
    if headers.get("access-control-request-private-network") == "true":
        found.append((b"access-control-allow-private-network", b"true"))
    return found
