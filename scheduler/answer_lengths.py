"""How many tokens answers still get, learned by what their requests are for.

Sequences that run need memory for the rest of their answers. A request's `max_tokens` says little about it:
clients ask for 32,000 and get 200. So the lengths of the latest answers tell, of those that became longer
than the answer is already.
"""

from bisect import bisect_right, insort
from collections import deque

from ..cache.blocks import BLOCK_SIZE
from .sequence import Sequence

MEMORY = 64
"""Answers of each class of requests that are remembered."""

MIN_KNOWN = 8
"""Answers of which at least so many must be known; before, no growth is expected."""

QUANTILE = 0.8
"""Share of the answers that end within the growth that is expected."""


class AnswerLengths:
    """The lengths of the latest answers, in tokens, by the class of their requests."""

    def __init__(self) -> None:
        self._latest: dict[str, deque[int]] = {}  # oldest first
        self._sorted: dict[str, list[int]] = {}

    def learn(self, sequence: Sequence) -> None:
        """Remember the length of an answer that has ended by itself or by its bound."""
        kind = _kind(sequence)
        latest, ordered = self._latest.setdefault(kind, deque()), self._sorted.setdefault(kind, [])
        if len(latest) == MEMORY:
            ordered.remove(latest.popleft())
        length = len(sequence.tokens) - sequence.num_prompt_tokens
        latest.append(length)
        insort(ordered, length)

    def growth(self, sequence: Sequence) -> int:
        """Return how many tokens `sequence` is expected to get yet; at most those that it may get."""
        known = self._sorted.get(_kind(sequence), ())
        if len(known) < MIN_KNOWN:
            return 0
        num_sampled = len(sequence.tokens) - sequence.num_prompt_tokens
        num_longer = len(known) - bisect_right(known, num_sampled)
        # An answer that is longer than all the others may end at any time, or go on.
        expected = BLOCK_SIZE
        if num_longer:
            expected = known[-num_longer + int(QUANTILE * num_longer)] - num_sampled
        return min(expected, sequence.max_length - len(sequence.tokens))


def _kind(sequence: Sequence) -> str:
    """Return the class of a request, one of few; subagents answer otherwise than the main agent."""
    origin = sequence.request.origin
    return origin.request_class or ("subagent" if origin.agent else "main")
