"""How many prompt tokens fit into a step beside decoding sequences without making those wait too long."""

from collections import deque

MIN_TOKENS = 32
"""Prompt tokens a step computes in any case: a prefill must advance even where decoding alone is slow."""

MAX_SLOWDOWN = 2
"""A step may take this many times as long as decoding alone, where that is longer than the target."""

MAX_MIXED_STEPS = 16
"""Mixed steps after which one is kept free of prompts, to learn anew how long decoding alone takes."""

NUM_COSTS = 8
"""Mixed steps remembered. The second slowest of them counts: half of the steps would exceed a mean."""


class PrefillPacer:
    """Cuts prefill slices to a target time a step, by the durations of past steps.

    A feedback rather than a model of costs: contexts grow slowly beside the steps, and a machine gets faster
    and slower for reasons of its own.
    """

    def __init__(self, target_s: float, max_tokens: int) -> None:
        self._target_s = target_s
        self._max_tokens = max_tokens
        self._decode_s = 0.0  # moving average over the steps that only decoded
        self._num_mixed = 0  # mixed steps since the last step that only decoded
        self._costs: deque[float] = deque(maxlen=NUM_COSTS)  # of mixed steps, seconds a prompt token

    @property
    def num_tokens(self) -> int:
        """Prompt tokens that the next step beside decoding sequences may compute."""
        if self._num_mixed >= MAX_MIXED_STEPS:
            return 0
        if not self._costs:  # nothing is known yet, and decoding sequences wait for the step already
            return max(self._max_tokens // 4, min(self._max_tokens, MIN_TOKENS))
        cost = sorted(self._costs)[-2:][0]
        target_s = max(self._target_s, MAX_SLOWDOWN * self._decode_s)
        return min(self._max_tokens, max(MIN_TOKENS, int(target_s / cost)))

    def record(self, num_tokens: int, elapsed_s: float) -> None:
        """Learn that a step with `num_tokens` of prompts beside decode rows took `elapsed_s`."""
        self._num_mixed = self._num_mixed + 1 if num_tokens else 0
        if not num_tokens:
            self._decode_s += 0.3 * (elapsed_s - self._decode_s)
        elif num_tokens >= self.num_tokens // 2:  # a much smaller slice says nothing of a larger one
            self._costs.append(max(elapsed_s, 1e-6) / num_tokens)
