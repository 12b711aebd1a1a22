"""One request's tokens on their way from the scheduler's loop to the request's reader."""

import asyncio
import time

from .. import PensieveError
from ..engine.step import TokenLogprobs
from .exceptions import EngineFailed
from .scheduler import Scheduler
from .sequence import FinishReason, Sequence


class TokenStream:
    """One request's tokens as they are computed: iterate over it, and `cancel()` it in a `finally`."""

    def __init__(self, scheduler: Scheduler, sequence: Sequence, num_cached: int) -> None:
        self.arrival_s = time.monotonic()
        self.admitted_s: float | None = None  # when it first got a place in a step
        self.first_token_s: float | None = None
        self.num_prompt_tokens = sequence.num_prompt_tokens
        self._scheduler = scheduler
        self._sequence = sequence
        self._expected_cached = num_cached
        self._failure: PensieveError = EngineFailed("a step failed while it computed this request")
        self.logprobs: list[TokenLogprobs] = []  # of the tokens read last, where they were asked for
        self._unread: list[int] = []
        self._unread_logprobs: list[TokenLogprobs] = []
        self._news: asyncio.Future[None] | None = None  # what the reader waits for, or did last

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens whose KV was there already: exact once admitted, until then as at arrival."""
        cached = self._sequence.num_cached
        return self._expected_cached if cached is None else cached

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
            self.logprobs, self._unread_logprobs = self._unread_logprobs, []
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

    def publish(self, tokens: list[int], logprobs: list[TokenLogprobs]) -> None:
        """Hand over new tokens, or wake the reader because the sequence has ended. For the loop only."""
        if tokens and self.first_token_s is None:
            self.first_token_s = time.monotonic()
        self._unread += tokens
        self._unread_logprobs += logprobs
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
