"""Counts the tokens of one sequence's answer and prompt, for penalties and for a least length."""

from array import array
from collections import abc

from ..engine.step import Adjustment, SamplingParams


class SeenTokens:
    """The tokens that one sequence's answer holds so far. They are only added to: no token is taken back."""

    def __init__(
        self, sampling: SamplingParams, prompt: abc.Sequence[int], stop_ids: abc.Iterable[int]
    ) -> None:
        """prompt: the tokens before the answer. stop_ids: tokens that end the answer."""
        self._sampling = sampling
        self._stop_ids = tuple(stop_ids)
        self._start = self._num_counted = len(prompt)
        self._counts: dict[int, int] = {}
        self._prompt = _packed(set(prompt)) if sampling.repetition_penalty != 1 else b""

    def adjustment(self, tokens: abc.Sequence[int], num_tokens: int) -> Adjustment | None:
        """Return the adjustment for sampling the token after `num_tokens`; None where it changes no logit.

        tokens: the sequence's known tokens; one more may be pending.
        """
        sampling, is_short = self._sampling, num_tokens - self._start < self._sampling.min_tokens
        forbidden = self._stop_ids if is_short else ()
        if not sampling.penalises:
            return Adjustment(forbidden=forbidden) if forbidden or sampling.logit_bias else None
        for place in range(self._num_counted, len(tokens)):
            self._counts[tokens[place]] = self._counts.get(tokens[place], 0) + 1
        self._num_counted = len(tokens)
        return Adjustment(_packed(self._counts), _packed(self._counts.values()), self._prompt, forbidden)


def _packed(numbers: abc.Iterable[int]) -> bytes:
    """Return numbers as 32-bit integers."""
    return array("i", numbers).tobytes()
