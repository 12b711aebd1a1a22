"""The asyncio task between the API and the engine: arrivals, schedule, await a step, publish.

Everything here runs on one event loop. The engine's process is behind `Engine.step`; while it works, the
loop is free to take requests and to write tokens out.
"""

import asyncio
import logging
import time
from dataclasses import dataclass

from .. import PensieveError
from ..engine.step import Engine, EngineLost, StepFailed, StepPlan, TokenScore
from .config import SchedulerConfig
from .scheduler import Scheduler
from .sequence import FinishReason, Progress, Request, Sequence, SequenceStatus

logger = logging.getLogger(__name__)

MAX_FAILURES = 5
"""Steps that may fail one after another before the engine is given up."""


class PromptTooLong(PensieveError):
    """The prompt can never fit."""

    def __init__(self, num_tokens: int, max_tokens: int) -> None:
        super().__init__(f"prompt is too long: {num_tokens} tokens > {max_tokens} maximum")
        self.num_tokens = num_tokens
        self.max_tokens = max_tokens


class QueueFull(PensieveError):
    """As many requests wait as may."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("too many requests are waiting")
        self.retry_after_s = retry_after_s


class EngineDown(PensieveError):
    """The engine has been given up; nothing is taken any more."""


class Stopping(EngineDown):
    """The server is being stopped in good order."""


class EngineFailed(PensieveError):
    """The engine failed while it computed this request."""


class TokenStream:
    """One request's tokens as they are computed: iterate over it, and `cancel()` it in a `finally`."""

    def __init__(self, scheduler: Scheduler, sequence: Sequence, num_cached: int) -> None:
        self.arrival_s = time.monotonic()
        self.admitted_s: float | None = None  # when it first got a place in a step
        self.first_token_s: float | None = None
        self.num_prompt_tokens = sequence.num_prompt
        self._scheduler = scheduler
        self._sequence = sequence
        self._expected_cached = num_cached
        self._failure: PensieveError = EngineFailed("a step failed while it computed this request")
        self.scores: list[TokenScore] = []  # of the tokens read last, where they were asked for
        self._unread: list[int] = []
        self._unread_scores: list[TokenScore] = []
        self._news: asyncio.Future[None] | None = None  # what the reader waits for, or did last

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens whose KV was there already: exact once admitted, until then as at arrival."""
        cached = self._sequence.num_cached
        return self._expected_cached if cached is None else cached

    @property
    def num_sampled_tokens(self) -> int:
        """Tokens read so far and those to be read; a stop token is not among them."""
        return len(self._sequence.tokens) - self.num_prompt_tokens

    @property
    def num_queued_ahead(self) -> int:
        """Requests before this one in the queue; 0 once it runs."""
        if self._sequence.status is not SequenceStatus.WAITING:
            return 0
        return self._scheduler.queues.waiting.index(self._sequence)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended, None while it runs."""
        return self._sequence.finish_reason

    def __aiter__(self) -> "TokenStream":
        return self

    async def __anext__(self) -> list[int]:
        """Tokens sampled since the last call, at least one; a stop token is left out.

        Raises StopAsyncIteration at the end, EngineFailed when the engine cannot go on with it, EngineDown
        when it was ended with all others.
        """
        while not self._unread and self.finish_reason is None:
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        if self._unread:
            tokens, self._unread = self._unread, []
            self.scores, self._unread_scores = self._unread_scores, []
            return tokens
        if self.finish_reason == "error":
            raise self._failure
        raise StopAsyncIteration

    def cancel(self) -> None:
        """End the sequence within one step; harmless when it has ended."""
        self._scheduler.end(self._sequence, "abort")
        self._wake()

    def fail(self, failure: PensieveError) -> None:
        """End the sequence with an error that the reader gets to see. For the loop only."""
        self._failure = failure
        self._scheduler.end(self._sequence, "error")
        self._wake()

    def publish(self, tokens: list[int], scores: list[TokenScore]) -> None:
        """Hand over new tokens, or wake the reader because the sequence has ended. For the loop only."""
        if tokens and self.first_token_s is None:
            self.first_token_s = time.monotonic()
        self._unread += tokens
        self._unread_scores += scores
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot for /health and /metrics; counters only grow."""

    num_running: int
    num_waiting: int
    blocks_total: int
    blocks_free: int
    blocks_cached: int  # kept for reuse only; may be evicted
    blocks_held: int  # in use by sequences
    prompt_tokens: int  # counter: prompt tokens of admitted sequences
    computed_tokens: int  # counter: prompt tokens really computed
    generation_tokens: int  # counter
    refused_tokens: int  # counter: sampled, but thrown away because of a constraint
    prefix_cache_queries: int  # counter, tokens looked up
    prefix_cache_hits: int  # counter, tokens found
    prefix_waits: int  # counter: sequences that waited for another to compute their shared prefix
    evictions: int  # counter, blocks
    preemptions: int  # counter
    failed_steps: int  # counter
    steps: int  # counter
    current_step_s: float  # how long the step under way has taken, 0 when idle
    engine_error: str | None  # why the engine is down, None while it is well


class SchedulerLoop:
    """Owns the scheduler and drives the engine; `submit()` is its front, `run()` its task."""

    def __init__(self, engine: Engine, config: SchedulerConfig, num_blocks: int, max_context: int) -> None:
        self._engine = engine
        self._scheduler = Scheduler(config, num_blocks, max_context)
        self._token_streams: dict[Sequence, TokenStream] = {}
        self._arrived = asyncio.Event()
        self._step_started_s: float | None = None
        self._num_failures = 0
        self._down: EngineDown | None = None

    @property
    def max_context(self) -> int:
        """Tokens that one sequence may hold, prompt and answer together."""
        return self._scheduler.max_context

    def submit(self, request: Request) -> TokenStream:
        """Queue a request and return its token stream.

        Raises PromptTooLong, QueueFull or EngineDown; nothing is queued then.
        """
        if self._down is not None:
            raise self._down
        if len(request.prompt) >= self.max_context:
            raise PromptTooLong(len(request.prompt), self.max_context - 1)
        if len(self._scheduler.queues.waiting) >= self._scheduler.config.max_waiting:
            raise QueueFull(retry_after_s=10)
        num_cached = self._scheduler.kv_cache.num_matched(request.prompt)
        sequence = self._scheduler.add(request)
        token_stream = TokenStream(self._scheduler, sequence, num_cached)
        self._token_streams[sequence] = token_stream
        self._arrived.set()
        return token_stream

    async def run(self) -> None:
        """Step until cancelled or until the engine is given up; every request then ends with an answer."""
        try:
            while self._down is None:
                if not self._scheduler.has_work:
                    await self._idle()
                await self._step()
        except Exception as error:
            logger.exception("the scheduler failed")
            self._down = EngineDown(f"the scheduler failed: {error}")
            raise
        finally:
            self._down = self._down or Stopping("the server is stopping")
            for token_stream in self._token_streams.values():
                token_stream.fail(self._down)
            self._token_streams.clear()

    async def _idle(self) -> None:
        """Wait for a request, or for the engine's end: whoever comes next must not wait for its start."""
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
        self._mark_admitted()
        self._step_started_s = time.monotonic()
        try:
            result = await (self._engine.drain() if plan is None else self._engine.step(plan))
        except StepFailed as error:
            self._recover(error, plan)
            return
        finally:
            self._step_started_s = None
        if result is not None:
            self._num_failures = 0
            self._publish(self._scheduler.update(result))
        self._forget_ended()

    def _recover(self, error: StepFailed, plan: StepPlan | None) -> None:
        self._num_failures += 1
        self._publish(self._scheduler.fail(unbegun=plan if isinstance(error, EngineLost) else None))
        if self._num_failures >= MAX_FAILURES:
            self._down = EngineDown(f"{self._num_failures} steps failed one after another: {error}")

    def _mark_admitted(self) -> None:
        for sequence in self._scheduler.queues.running:
            token_stream = self._token_streams[sequence]
            if token_stream.admitted_s is None:
                token_stream.admitted_s = time.monotonic()

    def _publish(self, progress: list[Progress]) -> None:
        for item in progress:
            self._token_streams[item.sequence].publish(item.tokens, item.scores)

    def _forget_ended(self) -> None:
        ended = [s for s in self._token_streams if s.status is SequenceStatus.FINISHED]
        for sequence in ended:
            del self._token_streams[sequence]

    def stats(self) -> Stats:
        """What is running, what is held, what has happened."""
        scheduler, started = self._scheduler, self._step_started_s
        counters, allocator = scheduler.counters, scheduler.kv_cache.allocator
        return Stats(
            num_running=len(scheduler.queues.running),
            num_waiting=len(scheduler.queues.waiting),
            blocks_total=allocator.num_blocks,
            blocks_free=allocator.num_free,
            blocks_cached=allocator.num_cached,
            blocks_held=allocator.num_held,
            prompt_tokens=counters.prompt_tokens,
            computed_tokens=counters.computed_tokens,
            generation_tokens=counters.generation_tokens,
            refused_tokens=counters.refused_tokens,
            prefix_cache_queries=counters.prefix_queries,
            prefix_cache_hits=counters.prefix_hits,
            prefix_waits=counters.prefix_waits,
            evictions=scheduler.kv_cache.tree.num_evicted,
            preemptions=counters.preemptions,
            failed_steps=counters.failed_steps,
            steps=counters.steps,
            current_step_s=0.0 if started is None else time.monotonic() - started,
            engine_error=None if self._down is None else str(self._down),
        )
