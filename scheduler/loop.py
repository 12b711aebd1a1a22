"""The asyncio task between the API and the engine: arrivals, schedule, await a step, publish.

Everything here runs on one event loop. The model runs in the engine's process: `Engine.step` awaits that
process, and meanwhile the event loop takes requests and writes tokens out.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from ..cache.disk.index import DiskIndex
from ..engine.served_model import PoolLayout
from ..engine.step import Engine, EngineLost, StepFailed, StepPlan
from .exceptions import EngineDown, PromptTooLong, QueueFull, Stopping, UnclearSession
from .queue_forecast import QueueForecast
from .scheduler import Scheduler
from .sequence import Progress, Request, Sequence, SequenceStatus
from .session_drop import DroppedSession, drop_session
from .session_report import SessionReport, report_sessions
from .stats import ServerState, Stats
from .token_stream import TokenStream

logger = logging.getLogger(__name__)

MAX_FAILURES = 5
"""Steps that may fail one after another before the engine is given up."""


class SchedulerLoop:
    """Owns the scheduler and drives the engine. Callers `submit()` requests; the task `run()` steps."""

    def __init__(self, engine: Engine, scheduler: Scheduler) -> None:
        """scheduler: for the engine's model and pools; nobody else changes it."""
        self._engine = engine
        self._scheduler = scheduler
        self._token_streams: dict[Sequence, TokenStream] = {}
        self._forecast = QueueForecast()
        self._num_places = 0  # in the queue, held for requests that are being prepared
        self._arrived = asyncio.Event()
        self._stepped = asyncio.Event()  # a step has ended, or the loop
        self._step_started_s: float | None = None
        self._num_failures = 0
        self._down: EngineDown | None = None  # why no step is made any more
        self._refusal: EngineDown | None = None  # why no request is taken any more

    @property
    def max_context(self) -> int:
        """Tokens that one sequence may hold, prompt and answer together."""
        return self._scheduler.max_context

    def submit(self, request: Request) -> TokenStream:
        """Queue a request and return its token stream.

        Raises PromptTooLong, QueueFull or EngineDown; nothing is queued then.
        """
        if self._refusal is not None:
            raise self._refusal
        if len(request.prompt) >= self.max_context:
            raise PromptTooLong(len(request.prompt), self.max_context - 1)
        self._check_room(0)
        self._scheduler.sessions.tell_time(time.monotonic())
        sequence = self._scheduler.add(request)
        token_stream = TokenStream(self._scheduler, sequence, self._forecast)
        token_stream.limit_wait(self._scheduler.config.max_wait_s)
        self._token_streams[sequence] = token_stream
        self._arrived.set()
        return token_stream

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the queue for a request that is being prepared. Raises QueueFull or EngineDown.

        So that a request for which there will be no room is refused before its prompt is built.
        """
        if self._refusal is not None:
            raise self._refusal
        self._check_room(self._num_places)
        self._num_places += 1
        try:
            yield
        finally:
            self._num_places -= 1

    def is_full(self, num_more: int) -> bool:
        """Whether the queue has no room for one request after `num_more` others that have no place yet.

        False while no request is taken: then another refusal than that of a full queue is due.
        """
        return self._refusal is None and self._scheduler.room <= self._num_places + num_more

    def refuse(self) -> QueueFull:
        """Return the refusal of one request for which the queue has no room."""
        return QueueFull(self._forecast.refuse(time.monotonic()))

    def _check_room(self, num_taken: int) -> None:
        if self._scheduler.room <= num_taken:
            raise self.refuse()

    def stats(self) -> Stats:
        """Take a snapshot of the scheduler, its counters, and the step under way."""
        started, now_s = self._step_started_s, time.monotonic()
        stats = self._scheduler.stats(
            state=self._state(),
            current_step_s=0.0 if started is None else now_s - started,
            engine_error=None if self._down is None else str(self._down),
        )
        return replace(stats, queue_forecast_s=stats.num_waiting * self._forecast.interval_s(now_s))

    def sessions(self, account: str | None = None) -> Iterator[SessionReport]:
        """Yield what the sessions of one account do, or those of all, those that were used last first."""
        return report_sessions(self._scheduler, self._token_streams, time.monotonic(), account)

    def drop_session(self, name: str, account: str | None = None) -> DroppedSession:
        """Free the KV of the session that a person means by `name`; see `drop_session`.

        Raises UnclearSession, freeing nothing, where that is none, or not one alone.
        """
        found = self._scheduler.sessions.find(name, account)
        if len(found) != 1:
            raise UnclearSession(name, len(found))
        return drop_session(self._scheduler, found[0])

    def use_disk(self, index: DiskIndex, layout: PoolLayout) -> None:
        """Save prefixes to disk from now on, and look them up there."""
        self._scheduler.disk.open(index, layout)

    async def saved(self) -> None:
        """Wait until all that is to be saved to disk is there, or the loop has ended."""
        while self._scheduler.disk.is_saving and self._down is None:
            self._stepped.clear()
            await self._stepped.wait()

    def _state(self) -> ServerState:
        if self._down is not None and not isinstance(self._down, Stopping):
            return "error"
        return self._engine.state if self._refusal is None else "stopping"

    def refuse_new(self) -> None:
        """Take no request any more: `submit` raises Stopping. Those that were taken go on."""
        self._refusal = self._refusal or Stopping("the server is stopping")

    async def run(self) -> None:
        """Step until cancelled or until the engine is given up; every request left then gets an error."""
        try:
            while self._down is None:
                if not self._scheduler.has_work:
                    await self._idle()
                await self._step()
        except Exception as error:
            logger.exception("the scheduler failed")
            self._give_up(EngineDown(f"the scheduler failed: {error}"))
            raise
        finally:
            down = self._down or Stopping("the server is stopping")
            self._give_up(down)
            self._stepped.set()
            for token_stream in self._token_streams.values():
                token_stream.fail(down)
            self._token_streams.clear()

    async def _idle(self) -> None:
        """Wait for a request, or for the engine's death: then a new engine starts before a request comes."""
        self._forget_ended()
        self._arrived.clear()
        waits = [asyncio.ensure_future(self._arrived.wait()), asyncio.ensure_future(self._engine.lost())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _step(self) -> None:
        """Schedule, compute, take the result, publish."""
        plan = self._scheduler.schedule()
        self._mark_times()
        self._step_started_s = time.monotonic()
        try:
            done = await (self._engine.drain() if plan is None else self._engine.step(plan))
        except StepFailed as error:
            self._recover(error, plan)
            return
        finally:
            self._step_started_s = None
        if done.times:
            self._num_failures = 0
        for step_time in done.times:
            self._scheduler.take_time(step_time)
        for result in done.results:
            self._scheduler.sessions.tell_time(time.monotonic())
            self._publish(self._scheduler.update(result))
        self._stepped.set()
        self._forget_ended()

    def _recover(self, error: StepFailed, plan: StepPlan | None) -> None:
        # An engine that dies while nothing is computed, and comes back, may do so as often as it likes.
        if plan is not None or not (isinstance(error, EngineLost) and error.replaced):
            self._num_failures += 1
        self._publish(self._scheduler.fail(not_started=plan if isinstance(error, EngineLost) else None))
        if self._num_failures >= MAX_FAILURES:
            self._give_up(EngineDown(f"{self._num_failures} steps failed one after another: {error}"))

    def _give_up(self, why: EngineDown) -> None:
        self._down = self._refusal = why

    def _mark_times(self) -> None:
        """Note when sequences begin to run, or to wait for the disk."""
        now_s = time.monotonic()
        streams = [self._token_streams[sequence] for sequence in self._scheduler.running]
        started = [token_stream for token_stream in streams if token_stream.admitted_s is None]
        for token_stream in started:
            token_stream.admit(now_s)
        self._forecast.observe(now_s, len(started), self._scheduler.num_waiting > 0)
        for sequence in self._scheduler.restoring:
            token_stream = self._token_streams[sequence]
            if token_stream.restore_s is None and token_stream.admitted_s is None:
                token_stream.restore_s = now_s

    def _publish(self, progress: list[Progress]) -> None:
        for item in progress:
            self._token_streams[item.sequence].publish(item.tokens, item.logprobs)

    def _forget_ended(self) -> None:
        ended = [s for s in self._token_streams if s.status is SequenceStatus.FINISHED]
        for sequence in ended:
            del self._token_streams[sequence]
