"""How many prompt tokens a step may compute beside decode rows without delaying the rows too much.

A mixed step is one with decode rows and prompt tokens.
"""

from collections import deque

MIN_TOKENS = 32
"""Prompt tokens that a mixed step may always compute: a prefill must advance even where steps are slow."""

MAX_SLOWDOWN = 2
"""A step may take so many times as long as decoding alone takes, where that exceeds the target."""

MAX_MIXED_STEPS = 16
"""Mixed steps in a row, after which one step only decodes, to measure anew how long decoding alone takes."""

NUM_COSTS = 8
"""Mixed steps whose cost is kept. The second highest cost counts: half of the steps would exceed a mean."""


class PrefillPacer:
    """Cuts prefill slices to a target time a step, by the durations of past steps.

    It measures steps instead of modelling their cost: contexts grow little from step to step, and a machine
    becomes faster and slower for reasons that no model knows.
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
        if not self._costs:  # no mixed step is measured yet: a quarter of a step is a careful start
            return max(self._max_tokens // 4, min(self._max_tokens, MIN_TOKENS))
        cost = sorted(self._costs)[-2:][0]
        target_s = max(self._target_s, MAX_SLOWDOWN * self._decode_s)
        return min(self._max_tokens, max(MIN_TOKENS, int(target_s / cost)))

    def record(self, num_tokens: int, elapsed_s: float) -> None:
        """Learn that a step with decode rows and `num_tokens` prompt tokens, perhaps 0, took `elapsed_s`."""
        self._num_mixed = self._num_mixed + 1 if num_tokens else 0
        if not num_tokens:
            self._decode_s += 0.3 * (elapsed_s - self._decode_s)
        elif num_tokens >= self.num_tokens // 2:  # a much smaller slice says nothing of a larger one
            self._costs.append(max(elapsed_s, 1e-6) / num_tokens)
