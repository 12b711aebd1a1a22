"""The token stream of a request for no tokens, which only computes and caches its prompt."""

from collections.abc import Iterable

from ...engine.step import TokenLogprobs
from ...scheduler.queue_forecast import Outlook
from ...scheduler.sequence import FinishReason
from ..protocols import TokenSource


class PromptOnlyStream:
    """Waits until the prompt is computed, which the first token shows, and returns no token."""

    def __init__(self, stream: TokenSource) -> None:
        self._stream = stream

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return self._stream.num_prompt_tokens

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens found in the prefix cache."""
        return self._stream.num_cached_tokens

    @property
    def num_cached_at_arrival(self) -> int:
        """Of these, how many were found when the request was queued."""
        return self._stream.num_cached_at_arrival

    @property
    def num_matched_at_arrival(self) -> int:
        """Prompt tokens whose KV the prefix tree had then."""
        return self._stream.num_matched_at_arrival

    @property
    def num_disk_tokens(self) -> int:
        """How many of the cached tokens were read from disk."""
        return self._stream.num_disk_tokens

    @property
    def finish_reason(self) -> FinishReason | None:
        """Always "length": the answer has as many tokens as it may have."""
        return "length"

    @property
    def arrival_s(self) -> float:
        """time.monotonic() when the request was queued."""
        return self._stream.arrival_s

    @property
    def restore_s(self) -> float | None:
        """time.monotonic() when reading from disk began for the request, None where it has not."""
        return self._stream.restore_s

    @property
    def admitted_s(self) -> float | None:
        """time.monotonic() when the request was admitted, None before."""
        return self._stream.admitted_s

    @property
    def first_token_s(self) -> float | None:
        """None: no token is returned."""
        return None

    @property
    def outlook(self) -> Outlook | None:
        """How far the request is from its first token; None once it has it, or has ended."""
        return self._stream.outlook

    @property
    def logprobs(self) -> list[TokenLogprobs]:
        """An empty list."""
        return []

    async def __anext__(self) -> list[int]:
        """Wait until the prompt is computed. Always raises StopAsyncIteration, or EngineFailed on failure."""
        await self._stream.__anext__()
        self.cancel()
        raise StopAsyncIteration

    def cancel(self) -> None:
        """End the request within one step; does nothing when it has ended."""
        self._stream.cancel()

    def answered(self, calls: Iterable[str] | None) -> None:
        """Say that the answer, which is empty, has ended."""
        self._stream.answered(calls)
