"""One answer for several readers: each gets all of its events, those from before it came among them."""

import asyncio
from collections.abc import AsyncIterator

from ...scheduler.queue_forecast import Outlook
from ..formats.output_events import OutputEvent
from .answer import Answer, StopReason, Usage


class SharedAnswer:
    """Keeps the events of an answer. The reader that first needs more waits for them, others for that one.

    So a single reader costs no task of its own, and one that is cancelled leaves the answer to the next.
    """

    def __init__(self, source: Answer) -> None:
        self.source = source
        self.events: list[OutputEvent] = []
        self.is_over = self.has_failed = False
        self._is_awaited = False  # a reader waits for the source's next events
        self._others: list[asyncio.Future[None]] = []

    async def wait(self, num_read: int) -> None:
        """Wait for events after the first `num_read`, or for the end. Raises what an answer raises."""
        while len(self.events) == num_read and not self.is_over:
            if self._is_awaited:
                other: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._others.append(other)
                await other
                continue
            self._is_awaited = True
            try:
                self.events += await self.source.__anext__()
            except StopAsyncIteration:
                self.is_over = True
            except Exception:
                self.has_failed = True
                raise
            finally:
                self._is_awaited = False
                self._wake()

    def _wake(self) -> None:
        for other in self._others:
            if not other.done():
                other.set_result(None)
        self._others.clear()


class AnswerView:
    """What one reader sees of a shared answer; see Answer. How it is closed is for a subclass to say."""

    def __init__(self, shared: SharedAnswer) -> None:
        self._shared = shared
        self._num_read = 0

    @property
    def usage(self) -> Usage:
        """The usage of the shared answer."""
        return self._shared.source.usage

    @property
    def outlook(self) -> Outlook | None:
        """How far the request is from its first token; None once it has it, or has ended."""
        return self._shared.source.outlook

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response that say what was cached of the prompt."""
        return self._shared.source.headers

    @property
    def stop_reason(self) -> StopReason:
        """Why the answer ended; valid only after its end."""
        return self._shared.source.stop_reason

    @property
    def stop_sequence(self) -> str | None:
        """The stop sequence that ended the answer, if one did."""
        return self._shared.source.stop_sequence

    def __aiter__(self) -> AsyncIterator[list[OutputEvent]]:
        return self

    async def __anext__(self) -> list[OutputEvent]:
        """Return all events that this reader has not had. Raises what an answer raises."""
        await self._shared.wait(self._num_read)
        events = self._shared.events[self._num_read :]
        if not events:
            raise StopAsyncIteration
        self._num_read += len(events)
        return events
