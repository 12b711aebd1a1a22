"""The asyncio task between the API and the engine: arrivals, schedule, await a step, publish."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from .sequence import FinishReason, Request


class Generation:
    """One request's tokens as they are computed; iterate it, or close it with `cancel()`.

    Leaving the iteration early without `cancel()` keeps the sequence running: callers cancel in `finally`.
    """

    num_prompt_tokens: int
    num_cached_tokens: int  # a look-ahead until the sequence is admitted, exact afterwards
    num_queued_ahead: int  # sequences before it in the queue, 0 once it runs
    finish_reason: FinishReason | None  # set once the iteration has ended
    arrival_s: float  # time.monotonic() of submit
    admitted_s: float | None  # when it first got a place in a step
    first_token_s: float | None

    def __aiter__(self) -> AsyncIterator[list[int]]: ...
    async def __anext__(self) -> list[int]:
        """Tokens sampled since the last call, at least one; the stop token itself is left out.

        Raises StopAsyncIteration at the end, EngineFailed when the engine cannot go on.
        """

    def cancel(self) -> None:
        """End the sequence within one step; harmless when it has ended."""


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
    prefix_cache_queries: int  # counter, tokens looked up
    prefix_cache_hits: int  # counter, tokens found
    prefix_waits: int  # counter: sequences that waited for another to compute their shared prefix
    evictions: int  # counter, blocks
    preemptions: int  # counter
    steps: int  # counter
    last_step_s: float  # seconds since the last step ended; 0 when idle
    engine_error: str | None  # why the engine is down, None while it is well
