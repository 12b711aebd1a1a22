"""A token stream that can continue from other tokens than those that were sampled.

The sequence is cancelled, and a new one is queued whose prompt ends with the chosen tokens. Most of its KV is
in the prefix cache, so that continuing costs a step or two.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from ...engine.step import TokenLogprobs
from ...scheduler.exceptions import PromptTooLong, QueueFull
from ...scheduler.queue_forecast import Outlook
from ...scheduler.sequence import FinishReason, Request
from ..protocols import TokenSource


class ResumableTokenStream:
    """One token stream to its reader, made of one or several token streams of the scheduler."""

    def __init__(self, submit: Callable[[Request], TokenSource], request: Request) -> None:
        self._submit = submit
        self._request = request
        self._first = self._current = submit(request)
        self._is_full = False  # the tokens to continue from are as many as the answer may have

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the client's prompt."""
        return self._first.num_prompt_tokens

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of the client's prompt that were in the prefix cache."""
        return self._first.num_cached_tokens

    @property
    def num_cached_at_arrival(self) -> int:
        """Of these, how many were found when the request was queued."""
        return self._first.num_cached_at_arrival

    @property
    def num_matched_at_arrival(self) -> int:
        """Tokens of the client's prompt whose KV the prefix tree had then."""
        return self._first.num_matched_at_arrival

    @property
    def num_disk_tokens(self) -> int:
        """How many of the cached tokens were read from disk."""
        return self._first.num_disk_tokens

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the scheduler's latest stream ended, None while it runs; "length" once the answer is full."""
        return "length" if self._is_full else self._current.finish_reason

    @property
    def arrival_s(self) -> float:
        """time.monotonic() when the request was first queued."""
        return self._first.arrival_s

    @property
    def restore_s(self) -> float | None:
        """time.monotonic() when reading from disk began for the request, None where it has not."""
        return self._first.restore_s

    @property
    def admitted_s(self) -> float | None:
        """time.monotonic() when the request was first admitted, None before."""
        return self._first.admitted_s

    @property
    def first_token_s(self) -> float | None:
        """time.monotonic() when the request's first token arrived, None before."""
        return self._first.first_token_s

    @property
    def outlook(self) -> Outlook | None:
        """How far the request is from its first token; None once it has it, or has ended."""
        return self._first.outlook

    @property
    def logprobs(self) -> list[TokenLogprobs]:
        """An empty list."""
        return []  # only OpenAI's routes ask for log-probabilities, and they set no thinking budget

    async def __anext__(self) -> list[int]:
        """Return new tokens. Raises StopAsyncIteration at the end, EngineFailed on failure."""
        if self._is_full:
            raise StopAsyncIteration
        return await self._current.__anext__()

    def cancel(self) -> None:
        """End the request within one step; does nothing when it has ended."""
        self._current.cancel()

    def answered(self, calls: Iterable[str] | None) -> None:
        """Say which tools the answer, whose request has ended, has called; None if it was broken off."""
        self._current.answered(calls)

    def resume(self, tokens: list[int]) -> bool:
        """Continue after `tokens`, as the answer so far. Returns False when the scheduler refuses to."""
        room = self._request.max_tokens - len(tokens)
        if room < 1:
            self._is_full = True
            self._current.cancel()
            return True
        constraint = self._request.constraint
        request = replace(
            self._request,
            prompt=[*self._request.prompt, *tokens],
            max_tokens=room,
            num_answered=len(tokens),
            constraint=constraint and constraint.resumed(tokens),
        )
        try:
            following = self._submit(request)
        except (QueueFull, PromptTooLong):
            return False
        self._current.cancel()
        self._current = following
        return True
