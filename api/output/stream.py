"""Sends answers over HTTP, as server-sent events or whole, and cancels them when the client disconnects."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ... import PensieveError
from ...scheduler.queue_forecast import Outlook
from ..config import KeepAlive
from ..errors import ApiError, ClientGone, EngineError, api_error
from ..formats.output_events import OutputEvent
from .answer import Answer, Usage

logger = logging.getLogger(__name__)

T = TypeVar("T")

SENDS_BEFORE_YIELD = 32
"""Sends after which a stream yields to other tasks: where client and tokens are fast, it would never wait."""


class StreamWriter(Protocol):
    """Writes one answer as server-sent events, in the form of one API."""

    def start(self, usage: Usage) -> str:
        """Return the events that come before the first token."""

    def events(self, events: Iterable[OutputEvent]) -> str:
        """Return the stream's events for the answer's next output events; empty where there are none."""

    def end(self, answer: Answer) -> str:
        """Return the events that end the stream of an ended answer."""

    def ping(self, outlook: Outlook | None) -> str:
        """Return an event without content, which shows that the server is alive.

        outlook: how far the request is from its first token; None once it has it.
        """

    def error(self, problem: ApiError, request_id: str) -> str:
        """Return the event that reports an answer's failure."""


class BodyBuilder(Protocol):
    """Builds the body of an answer that is sent whole, in the form of one API."""

    def add(self, events: Iterable[OutputEvent]) -> None:
        """Take the answer's next output events."""

    def message(self, answer: Answer) -> dict[str, Any]:
        """Return the body of the ended answer."""


class AnswerStream(Response):
    """Streams an answer.

    The request is queued only when the response is sent, so that every queued answer is sent and closed.
    start: queues the request; an exception that it raises becomes an ordinary error response. It returns the
    request's answers: one, except in `ChoicesStream`.
    """

    media_type = "text/event-stream"

    def __init__(
        self, start: Callable[[], list[Answer]], writer: StreamWriter, keep_alive: KeepAlive
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._start = start
        self._writer = writer
        self._keep_alive = keep_alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Queue the request, send its answer, and close the answer in any case."""
        answers = self._start()
        try:
            await until_disconnect(receive, self._stream(answers, send, scope["state"]["request_id"]))
        finally:
            for answer in answers:
                answer.close()

    async def _stream(self, answers: list[Answer], send: Send, request_id: str) -> None:
        writer = self._writer
        output = EventSender(send, lambda: writer.ping(answers[0].outlook), self._keep_alive)
        self.headers.update(answers[0].headers)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await output.send(self._beginning(answers))
        pings = asyncio.create_task(output.ping())
        try:
            await self._send_answers(answers, output)
        except Exception as error:
            # The status has been sent: only an event can tell the client.
            problem = api_error(error)
            if isinstance(problem, EngineError):
                known = isinstance(error, PensieveError)  # the raising code has logged its cause
                logger.error("request %s failed: %s", request_id, error, exc_info=not known)
            await output.send(writer.error(problem, request_id))
        finally:
            pings.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _beginning(self, answers: list[Answer]) -> str:
        return self._writer.start(answers[0].usage)

    async def _send_answers(self, answers: list[Answer], output: "EventSender") -> None:
        (answer,) = answers
        async for events in answer:
            if text := self._writer.events(events):
                await output.send(text)
        await output.send(self._writer.end(answer))


class EventSender:
    """Sends a stream's text to one client, and pings while there is no text."""

    def __init__(self, send: Send, new_ping: Callable[[], str], keep_alive: KeepAlive) -> None:
        self._send = send
        self._new_ping = new_ping
        self._keep_alive = keep_alive
        self._num_sent = 0
        self._last_sent_s = time.monotonic()

    async def send(self, text: str) -> None:
        """Send text. Waits while the client is slow to read."""
        self._num_sent += 1
        self._last_sent_s = time.monotonic()
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        if self._num_sent % SENDS_BEFORE_YIELD == 0:
            await asyncio.sleep(0)

    async def ping(self) -> None:
        """Send pings until cancelled."""
        while True:
            # The first ping comes early: message_start alone does not show that the request is in work.
            patience_s = self._keep_alive.first_s if self._num_sent == 1 else self._keep_alive.interval_s
            wait_s = self._last_sent_s + patience_s - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(min(wait_s, self._keep_alive.interval_s))
            else:
                await self.send(self._new_ping())


async def whole_message(answer: Answer, builder: BodyBuilder) -> dict[str, Any]:
    """Wait for an answer's end and return its body."""
    async for events in answer:
        builder.add(events)
        await asyncio.sleep(0)
    return builder.message(answer)


async def until_disconnect(receive: Receive, work: Awaitable[T]) -> T | None:
    """Return the work's result, or cancel it and return None when the client disconnects first.

    The request's body must have been read.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """Return the work's result, which is not None. Raises ClientGone when the client disconnects first."""
    result = await until_disconnect(receive, work)
    if result is None:
        raise ClientGone("the client closed the connection")
    return result


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
