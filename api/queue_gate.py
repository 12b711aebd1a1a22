"""Refuses requests that the queue has no room for as they arrive: their bodies are not parsed.

When many clients send at once, the event loop has read all of their requests before the first of them is
looked at. So those that have arrived are counted, and a refusal is a few prepared bytes.
"""

import asyncio
import secrets
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import ANTHROPIC_PATH, OPENAI_PATHS, RESPONSES_PATH, api_error, error_response
from .metrics import Metrics
from .protocols import SchedulerInterface

GENERATING_PATHS = frozenset({ANTHROPIC_PATH, *OPENAI_PATHS, RESPONSES_PATH})
"""The paths at which a POST queues a request of the scheduler."""


class OpenTwins(Protocol):
    """Answers that go on for clients which may ask again."""

    @property
    def num_orphans(self) -> int:
        """How many there are."""


class QueueGate:
    """Counts requests between their arrival and the place in the queue that they take, and refuses others."""

    def __init__(self, scheduler: SchedulerInterface, metrics: Metrics, twins: "OpenTwins") -> None:
        self._scheduler = scheduler
        self._metrics = metrics
        self._twins = twins
        self._num_arriving = 0

    @property
    def is_full(self) -> bool:
        """Whether the queue has no room for one more request beside those that have arrived.

        False while some answer waits for its client to ask again: that request takes no place.
        """
        return not self._twins.num_orphans and self._scheduler.is_full(self._num_arriving)

    def place(self) -> AbstractContextManager[None] | None:
        """Return a place to enter for a request; None where it may turn out to need none."""
        return None if self._twins.num_orphans else self._scheduler.place()

    def arrive(self, loop: asyncio.AbstractEventLoop) -> None:
        """Count a request until the event loop has begun to serve it, which takes its place.

        Call it after the request's task has been made: tasks begin in the order of their making.
        """
        self._num_arriving += 1
        loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._num_arriving -= 1

    def refusal(self, path: str) -> bytes:
        """Return the response to a request to `path` that is refused, as HTTP/1.1 writes it; count it."""
        problem = api_error(self._scheduler.refuse())
        request_id = f"req_{secrets.token_hex(12)}"
        response = error_response(problem, path, request_id)
        response.headers["request-id"] = request_id
        self._metrics.rejected(problem)
        self._metrics.response("POST", path, response.status_code)
        lines = [b"HTTP/1.1 %d Overloaded" % response.status_code]
        lines += [name + b": " + value for name, value in response.raw_headers]
        return b"\r\n".join([*lines, b"", bytes(response.body)])


class PlaceHolder:
    """The ASGI middleware that takes a request's place in the queue before its body is read."""

    def __init__(self, app: ASGIApp, gate: QueueGate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on. Raises QueueFull or EngineDown."""
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        place = self._gate.place() if is_post and scope["path"] in GENERATING_PATHS else None
        with ExitStack() as held:
            if place is not None:
                held.enter_context(place)
                scope["state"]["place"] = held
            await self._app(scope, receive, send)


def place_of(http: HttpRequest, scheduler: SchedulerInterface) -> AbstractContextManager[object]:
    """Return the place in the queue that PlaceHolder holds for a request; a new one where it was given up.

    Leaving it gives the place up. Raises QueueFull or EngineDown; a new place does so when it is entered.
    """
    held: ExitStack | None = http.scope["state"].pop("place", None)
    return held if held is not None else scheduler.place()
