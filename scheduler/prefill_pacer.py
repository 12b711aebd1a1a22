"""How many prompt tokens fit beside decoding sequences without making them wait too long."""

from collections import deque

LEAST = 32
"""Prompt tokens a step computes in any case: a prefill must advance even where decoding alone is slow."""

DECODE_SHARE = 2
"""A step may take this many times what decoding alone takes, where that is more than the target."""

PATIENCE = 16
"""Mixed steps after which one is kept free of prompts, to learn anew what decoding alone takes."""

NUM_STEPS = 8
"""Mixed steps remembered. The second slowest of them counts: half of the steps would exceed a mean."""


class PrefillPacer:
    """Cuts prefill slices to a target time a step, from what past steps took.

    A feedback rather than a model of costs: contexts grow slowly beside the steps, and a machine gets faster
    and slower for reasons of its own.
    """

    def __init__(self, target_s: float, most: int) -> None:
        self._target_s = target_s
        self._most = most
        self._decode_s = 0.0  # of late, a step that only decoded
        self._num_mixed = 0  # steps since there was one
        self._costs: deque[float] = deque(maxlen=NUM_STEPS)  # of mixed steps, seconds a prompt token

    @property
    def num_tokens(self) -> int:
        """Prompt tokens that the next step beside decoding sequences may compute."""
        if self._num_mixed >= PATIENCE:
            return 0
        if not self._costs:
            return max(
                self._most // 4, min(self._most, LEAST)
            )  # nothing is known, and somebody waits already
        cost = sorted(self._costs)[-2:][0]
        target_s = max(self._target_s, DECODE_SHARE * self._decode_s)
        return min(self._most, max(LEAST, int(target_s / cost)))

    def note(self, num_tokens: int, elapsed_s: float) -> None:
        """Learn that a step with `num_tokens` of prompts beside decode rows took `elapsed_s`."""
        self._num_mixed = self._num_mixed + 1 if num_tokens else 0
        if not num_tokens:
            self._decode_s += 0.3 * (elapsed_s - self._decode_s)
        elif num_tokens >= self.num_tokens // 2:  # a much smaller slice says nothing of a larger one
            self._costs.append(max(elapsed_s, 1e-6) / num_tokens)
