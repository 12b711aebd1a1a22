"""A token stream that can be made to go on from other tokens than those that were sampled.

The engine need not know: the sequence is cancelled, and a new one goes on from the tokens that are wanted.
Its KV is in the prefix cache, so that this costs no more than a step or two.
"""

from collections.abc import Callable
from dataclasses import replace

from ...engine.step import TokenLogprobs
from ...scheduler.exceptions import PromptTooLong, QueueFull
from ...scheduler.sequence import FinishReason, Request
from ..protocols import TokenSource


class ResumableTokenStream:
    """One token stream to its reader, which may be several to the scheduler."""

    def __init__(self, submit: Callable[[Request], TokenSource], request: Request) -> None:
        self._submit = submit
        self._request = request
        self._first = self._current = submit(request)
        self._is_full = False  # the tokens to go on from are as many as the answer may have

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the client's prompt."""
        return self._first.num_prompt_tokens

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of the client's prompt that were in the prefix cache."""
        return self._first.num_cached_tokens

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the last of the scheduler's streams ended, None before its end."""
        return "length" if self._is_full else self._current.finish_reason

    @property
    def arrival_s(self) -> float:
        """When the request was submitted first."""
        return self._first.arrival_s

    @property
    def admitted_s(self) -> float | None:
        """When the request was admitted first."""
        return self._first.admitted_s

    @property
    def first_token_s(self) -> float | None:
        """When the request's first token came."""
        return self._first.first_token_s

    @property
    def logprobs(self) -> list[TokenLogprobs]:
        """Log-probabilities, of which there are none."""
        return []  # only OpenAI's routes ask for them, and those have no thinking budget

    async def __anext__(self) -> list[int]:
        """Return new tokens. Raises StopAsyncIteration at the end, EngineFailed on failure."""
        if self._is_full:
            raise StopAsyncIteration
        return await self._current.__anext__()

    def cancel(self) -> None:
        """End the request within one step; does nothing when it has ended."""
        self._current.cancel()

    def resume(self, tokens: list[int]) -> bool:
        """Go on after `tokens`, which are the answer so far; False when the queue has no place for that."""
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
            constraint=constraint and constraint.resumed(tokens),
        )
        try:
            following = self._submit(request)
        except (QueueFull, PromptTooLong):
            return False
        self._current.cancel()
        self._current = following
        return True
