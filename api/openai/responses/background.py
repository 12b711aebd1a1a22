"""Responses in the background: their answers go on without their clients, who ask for them by their ids."""

import asyncio
import logging
from collections import OrderedDict
from contextlib import ExitStack
from typing import Any

from .... import PensieveError
from ...errors import EngineError, api_error
from ...output.answer import Answer
from .conversations import Conversation
from .event_log import EventLog
from .response_store import StoredItem, StoredResponse
from .response_writers import BackgroundWriter

MAX_RUNS = 200
"""Responses whose events are kept. No more run at a time than the scheduler's batch and queue hold."""

MAX_BYTES = 64 * 1024 * 1024  # of the events of all responses that have ended

logger = logging.getLogger(__name__)


class BackgroundRun:
    """One response in the background, and its events."""

    def __init__(
        self,
        answer: Answer,
        writer: BackgroundWriter,
        conversation: Conversation,
        own_input: tuple[StoredItem, ...],
        place: ExitStack,
    ) -> None:
        """place: holds what the response takes up of its key's limit; closed at the end."""
        self.response_id = writer.response_id
        self.owner = conversation.owner
        self.events = EventLog()
        self._answer = answer
        self._writer = writer
        self._conversation = conversation
        self._own_input = own_input
        self._place = place
        self._task: asyncio.Task[None] | None = None
        self._has_ended = False

    @property
    def has_ended(self) -> bool:
        """Whether the response has ended, well or not."""
        return self._has_ended

    @property
    def entry(self) -> StoredResponse:
        """The response as it is now."""
        return self._conversation.entry(self._own_input, self.body)

    @property
    def body(self) -> dict[str, Any]:
        """The body of the response as it is now."""
        outlook = None if self._has_ended else self._answer.outlook
        return self._writer.body_now(outlook is not None and outlook.num_ahead is not None)

    def start(self) -> None:
        """Begin to read the answer."""
        self.events.append(self._writer.start(self._answer.usage))
        self._task = asyncio.create_task(self._read())

    def cancel(self) -> None:
        """End the response now, unless it has ended."""
        if not self._has_ended:
            self._end(self._writer.cancelled(self._answer))
        if self._task is not None:
            self._task.cancel()

    async def _read(self) -> None:
        try:
            async for events in self._answer:
                self.events.append(self._writer.events(events))
                await asyncio.sleep(0)
            last = self._writer.end(self._answer)
        except Exception as error:
            problem = api_error(error)
            if isinstance(problem, EngineError):
                known = isinstance(error, PensieveError)  # the raising code has logged its cause
                logger.error("response %s failed: %s", self.response_id, error, exc_info=not known)
            last = self._writer.error(problem, self.response_id)
        finally:
            self._answer.close()
        self._end(last)

    def _end(self, last: str) -> None:
        self._has_ended = True
        self._answer.close()
        self._place.close()
        self.events.append(last)
        self.events.end()


class BackgroundRuns:
    """The responses in the background, and those of the latest whose events are kept."""

    def __init__(self, max_runs: int = MAX_RUNS, max_bytes: int = MAX_BYTES) -> None:
        self._max_runs = max_runs
        self._max_bytes = max_bytes
        self._runs: OrderedDict[str, BackgroundRun] = OrderedDict()  # by the response's id

    def __len__(self) -> int:
        return len(self._runs)

    def start(self, run: BackgroundRun) -> None:
        """Start a run, and forget the events of the oldest that have ended where there are too many."""
        ended = [(name, old) for name, old in self._runs.items() if old.has_ended]
        num_bytes = sum(old.events.num_bytes for _, old in ended)
        num_runs = len(self._runs) + 1
        for name, old in ended:
            if num_runs <= self._max_runs and num_bytes <= self._max_bytes:
                break
            del self._runs[name]
            num_runs -= 1
            num_bytes -= old.events.num_bytes
        self._runs[run.response_id] = run
        run.start()

    def find(self, owner: str, response_id: str) -> BackgroundRun | None:
        """Return the run of a response that `owner` has asked for; None where none is kept."""
        run = self._runs.get(response_id)
        return run if run is not None and run.owner == owner else None

    def forget(self, owner: str, response_id: str) -> bool:
        """Cancel a run and drop its events; return whether it was there."""
        run = self.find(owner, response_id)
        if run is not None:
            run.cancel()
            del self._runs[response_id]
        return run is not None
