"""One request's tokens on their way from the scheduler's loop to the request's reader."""

import asyncio
import time
from collections.abc import Iterable
from copy import copy

from .. import PensieveError
from ..engine.step import TokenLogprobs
from .exceptions import EngineFailed, WaitedTooLong
from .queue_forecast import Outlook, QueueForecast
from .scheduler import Scheduler
from .sequence import FinishReason, Sequence


class TokenStream:
    """One request's tokens as they are computed: iterate over it, and `cancel()` it in a `finally`."""

    def __init__(self, scheduler: Scheduler, sequence: Sequence, forecast: QueueForecast) -> None:
        """sequence: has just been queued; the stream looks it up in the prefix tree."""
        self.arrival_s = time.monotonic()
        self.restore_s: float | None = None  # when reading from disk began, for which the sequence waits
        self.admitted_s: float | None = None  # when the sequence was first admitted
        self.first_token_s: float | None = None
        self.num_prompt_tokens = sequence.num_prompt_tokens
        self.num_cached_at_arrival = scheduler.num_cached_tokens(sequence)
        # With the tokens whose KV is cached, but no state to go on from.
        self.num_matched_at_arrival = scheduler.num_matched_tokens(sequence)
        self._scheduler = scheduler
        self._sequence = sequence
        self._forecast = forecast
        self._failure: PensieveError = EngineFailed("a step failed while it computed this request")
        self.logprobs: list[TokenLogprobs] = []  # of the tokens read last, if the request asks for them
        self._unread: list[int] = []
        self._unread_logprobs: list[TokenLogprobs] = []
        self._wakeup: asyncio.Future[None] | None = None  # that the reader awaits, or awaited last
        self._deadline: asyncio.TimerHandle | None = None  # of the wait for the first step

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens whose KV was cached at the first admission; before it, at the request's arrival."""
        num_cached = self._sequence.num_cached_tokens
        return self.num_cached_at_arrival if num_cached is None else num_cached

    @property
    def num_disk_tokens(self) -> int:
        """How many of the cached tokens were read from disk for this request, or for one that shared them."""
        return self._sequence.num_disk_tokens

    @property
    def outlook(self) -> Outlook | None:
        """How far the request is from its first token; None once it has it, or has ended."""
        if self.first_token_s is not None or self.finish_reason is not None:
            return None
        sequence, now_s = self._sequence, time.monotonic()
        num_ahead = self._scheduler.num_ahead(sequence)
        num_computed = self.num_cached_tokens if num_ahead is not None else sequence.num_committed_tokens
        seconds = self._scheduler.seconds_to_compute(sequence, num_computed)
        if num_ahead is not None and seconds is not None:
            seconds += (num_ahead + 1) * self._forecast.interval_s(now_s)
        elif self.admitted_s is not None and num_computed > self.num_cached_tokens:
            # As fast as so far, beside whatever else is computed.
            token_s = (now_s - self.admitted_s) / (num_computed - self.num_cached_tokens)
            seconds = (self.num_prompt_tokens - num_computed) * token_s
        return Outlook(num_ahead, min(num_computed, self.num_prompt_tokens), self.num_prompt_tokens, seconds)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the sequence has ended; None before its end."""
        return self._sequence.finish_reason

    def __aiter__(self) -> "TokenStream":
        return self

    async def __anext__(self) -> list[int]:
        """Return the tokens sampled since the last call, at least one; a stop token is left out.

        Raises StopAsyncIteration at the end, EngineFailed when the engine cannot go on with this sequence,
        and EngineDown when the loop has ended all sequences.
        """
        while not self._unread and self.finish_reason is None:
            self._wakeup = asyncio.get_running_loop().create_future()
            await self._wakeup
        if self._unread:
            tokens, self._unread = self._unread, []
            self.logprobs, self._unread_logprobs = self._unread_logprobs, []
            return tokens
        if self.finish_reason == "error":
            raise copy(self._failure)  # whose traceback leads to this stream: a cycle, if it were kept here
        raise StopAsyncIteration

    def limit_wait(self, max_wait_s: float) -> None:
        """Fail with WaitedTooLong unless the sequence is admitted in time. For the loop only."""
        late = WaitedTooLong(f"the request has waited for {max_wait_s:g} s (--max-wait-s) without its turn")
        self._end_wait()
        self._deadline = asyncio.get_running_loop().call_later(max_wait_s, self.fail, late)

    def admit(self, now_s: float) -> None:
        """Note the sequence's first admission. For the loop only."""
        self.admitted_s = now_s
        if self._sequence.conversation is not None:
            self._sequence.conversation.session.usage.waited_s += now_s - self.arrival_s
        self._end_wait()

    def cancel(self) -> None:
        """End the sequence now, unless it has ended. Rows of it in steps already planned are ignored."""
        self._end_wait()
        self._scheduler.end(self._sequence, "abort")
        self._wake()

    def answered(self, calls: Iterable[str] | None) -> None:
        """Say which tools the answer, whose sequence has ended, has called; None if it was broken off."""
        self._scheduler.sessions.tell_time(time.monotonic())
        self._scheduler.sessions.answered(self._sequence, calls)

    def fail(self, failure: PensieveError) -> None:
        """End the sequence and raise `failure` to its reader. For the loop only."""
        self._end_wait()
        self._failure = failure
        self._scheduler.end(self._sequence, "error")
        self._wake()

    def publish(self, tokens: list[int], logprobs: list[TokenLogprobs]) -> None:
        """Give the reader new tokens, or none when the sequence has ended. For the loop only."""
        if tokens and self.first_token_s is None:
            self.first_token_s = time.monotonic()
        self._unread += tokens
        self._unread_logprobs += logprobs
        self._wake()

    def _end_wait(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)
