"""How many prompt tokens fit beside decoding sequences without making them wait too long."""

LEAST = 32
"""Prompt tokens a step computes in any case: a prefill must advance even where decoding alone is slow."""


class Pace:
    """Cuts prefill slices to a target time a step, from what past steps took.

    A feedback rather than a model of costs: contexts grow slowly beside the steps, and a machine gets faster
    and slower for reasons of its own.
    """

    def __init__(self, target_s: float, most: int) -> None:
        self.num_tokens = most  # prompt tokens that the next mixed step may compute
        self._target_s = target_s
        self._most = most

    def note(self, num_tokens: int, elapsed_s: float) -> None:
        """Learn that a step with `num_tokens` of prompts beside decode rows took `elapsed_s`."""
        ratio = self._target_s / max(elapsed_s, 1e-6)
        if ratio < 1:
            self.num_tokens = max(LEAST, int(num_tokens * max(ratio, 0.5)))
        elif num_tokens >= 0.9 * self.num_tokens:  # a smaller slice says nothing of a larger one
            self.num_tokens = min(self._most, int(self.num_tokens * min(ratio, 1.5)) + 1)
