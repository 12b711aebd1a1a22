"""`GET /`: a page for people, or the server's name for programs; `GET /v1/status`: the events of the page."""

import base64
import hashlib
import re
from contextlib import aclosing
from importlib.resources import files

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ... import __version__
from ..errors import Overloaded
from ..output.stream import until_disconnect
from ..services import Services
from .status_feed import StartFacts, StatusFeed, Viewer

MAX_WATCHERS = 16
"""Pages that are kept up to date at once."""

INLINE = {
    "script-src": re.compile("<script>(.*?)</script>", re.S),
    "style-src": re.compile("<style>(.*?)</style>", re.S),
}


class StatusApi:
    """The routes for people who watch the server. A page shows what the key that it was given may see."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._feeds: dict[Viewer, StatusFeed] = {}
        self._page = (files(__package__) / "status_page.html").read_text(encoding="utf-8")
        self._headers = {
            "content-security-policy": content_policy(self._page),
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
            "vary": "accept",
        }

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route("/", self.root, methods=["GET", "HEAD"], response_model=None)
        # Claude Code's versions ask for one or the other at their start.
        router.add_api_route("/api/hello", self.hello, methods=["GET", "HEAD"], response_model=None)
        router.add_api_route("/v1/status", self.status, methods=["GET"], response_model=None)
        return router

    async def root(self, request: HttpRequest) -> Response:
        """Return the page to a browser, and to programs what `hello` returns."""
        if prefers_html(request.headers.get("accept", "")):
            return HTMLResponse(self._page, headers=self._headers)
        return await self.hello()

    async def hello(self) -> Response:
        """Return the server's name and version."""
        return JSONResponse({"name": "pensieve", "version": __version__}, headers={"vary": "accept"})

    async def status(self, request: HttpRequest) -> Response:
        """Return a stream of events: facts, then a snapshot each second. Raises Overloaded."""
        self._feeds = {viewer: feed for viewer, feed in self._feeds.items() if feed.num_watchers}
        if sum(feed.num_watchers for feed in self._feeds.values()) >= MAX_WATCHERS:
            raise Overloaded(
                f"{MAX_WATCHERS} pages watch already", reason="watchers", headers={"retry-after": "10"}
            )
        viewer = Viewer(request.state.key, request.state.account.name)
        feed = self._feeds.setdefault(viewer, StatusFeed(self._services, viewer))
        return StatusStream(feed, getattr(request.app.state, "start_facts", StartFacts()))


class StatusStream(Response):
    """Sends a feed's events until the client disconnects or the server stops."""

    media_type = "text/event-stream"

    def __init__(self, feed: StatusFeed, start: StartFacts) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._feed = feed
        self._start = start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        await until_disconnect(receive, self._stream(send))

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._feed.watch(self._start)) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def prefers_html(accept: str) -> bool:
    """Return whether a client names HTML, and no JSON before it."""
    ranges = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    named = [name for name in ranges if name in ("text/html", "application/json")]
    return named[:1] == ["text/html"]


def content_policy(page: str) -> str:
    """Return a Content-Security-Policy: the page's own script and style by their hashes, and its server."""
    hashes = {
        name: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for text in pattern.findall(page)
        )
        for name, pattern in INLINE.items()
    }
    return "; ".join(
        [
            "default-src 'none'",
            *(f"{name} {allowed}" for name, allowed in hashes.items()),
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
