"""Responses in the background: their answers go on without their clients, who ask for them by their ids."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class BackgroundWork:
    """What a response in the background needs until it has ended, its whole request among it."""

    answer: Answer
    writer: BackgroundWriter
    conversation: Conversation
    own_input: tuple[StoredItem, ...]
    place: ExitStack

    @property
    def body(self) -> dict[str, Any]:
        """The body of the response as it is now."""
        outlook = self.answer.outlook
        return self.writer.body_now(outlook is not None and outlook.num_ahead is not None)


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
        self._work: BackgroundWork | None = BackgroundWork(answer, writer, conversation, own_input, place)
        self._body: dict[str, Any] = {}  # once the response has ended
        self._task: asyncio.Task[None] | None = None
        self._when_ended: Callable[[], None] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the response has ended, well or not."""
        return self._work is None

    @property
    def entry(self) -> StoredResponse | None:
        """The response as it is now; None once it has ended, and a store has it."""
        work = self._work
        return None if work is None else work.conversation.entry(work.own_input, self.body)

    @property
    def body(self) -> dict[str, Any]:
        """The body of the response as it is now."""
        return self._body if self._work is None else self._work.body

    def start(self, when_ended: Callable[[], None]) -> None:
        """Begin to read the answer. when_ended: called once the response has ended."""
        assert self._work is not None, "a response starts once"
        self._when_ended = when_ended
        self.events.append(self._work.writer.start(self._work.answer.usage))
        self._task = asyncio.create_task(self._read(self._work))

    def cancel(self) -> None:
        """End the response now, unless it has ended."""
        task, work = self._task, self._work
        if work is not None:
            self._end(work, work.writer.cancelled(work.answer))
        if task is not None:
            task.cancel()

    async def _read(self, work: BackgroundWork) -> None:
        try:
            async for events in work.answer:
                self.events.append(work.writer.events(events))
                await asyncio.sleep(0)
            last = work.writer.end(work.answer)
        except Exception as error:
            problem = api_error(error)
            if isinstance(problem, EngineError):
                known = isinstance(error, PensieveError)  # the raising code has logged its cause
                logger.error("response %s failed: %s", self.response_id, error, exc_info=not known)
            last = work.writer.error(problem, self.response_id)
        finally:
            work.answer.close()
        self._end(work, last)

    def _end(self, work: BackgroundWork, last: str) -> None:
        """End the response, and keep of it nothing but its body and its events."""
        self._work, self._task, self._body = None, None, work.writer.body_now(is_waiting=False)
        work.answer.close()
        work.place.close()
        self.events.append(last)
        self.events.end()
        if self._when_ended is not None:
            self._when_ended()


class BackgroundRuns:
    """The responses in the background, and those of the latest whose events are kept."""

    def __init__(self, max_runs: int = MAX_RUNS, max_bytes: int = MAX_BYTES) -> None:
        self._max_runs = max_runs
        self._max_bytes = max_bytes
        self._runs: OrderedDict[str, BackgroundRun] = OrderedDict()  # by the response's id

    def __len__(self) -> int:
        return len(self._runs)

    def start(self, run: BackgroundRun) -> None:
        """Start a run, and forget the oldest that have ended where there are too many."""
        self._runs[run.response_id] = run
        run.start(self._drop)
        self._drop()

    def find(self, owner: str, response_id: str) -> BackgroundRun | None:
        """Return the run of a response that `owner` has asked for; None where none is kept."""
        run = self._runs.get(response_id)
        return run if run is not None and run.owner == owner else None

    def forget(self, owner: str, response_id: str) -> bool:
        """Cancel a run and drop its events; return whether it was there."""
        run = self.find(owner, response_id)
        if run is not None:
            run.cancel()
            self._runs.pop(response_id, None)  # its end may have dropped it
        return run is not None

    def _drop(self) -> None:
        """Forget the oldest runs that have ended, with their events, as long as there are too many."""
        ended = [(name, run) for name, run in self._runs.items() if run.has_ended]
        num_bytes = sum(run.events.num_bytes for _, run in ended)
        for name, run in ended:
            if len(self._runs) <= self._max_runs and num_bytes <= self._max_bytes:
                break
            del self._runs[name]
            num_bytes -= run.events.num_bytes
