"""The token budget of one step."""

from .sequence import Sequence


class StepBudget:
    """The tokens left in a step, and how prefills share them.

    One prefill after the other takes as many tokens as it can use, since a slice costs a pass over the model,
    however short. Steps take turns: in every other one the oldest prefill comes first, so that it always
    advances; in the others the shortest, so that a short prompt does not wait for a long one.
    """

    def __init__(self, num_tokens: int, step_id: int) -> None:
        self.num_tokens = num_tokens
        self._oldest_first = step_id % 2 == 0

    def take(self, num_wanted: int) -> int:
        """Take up to `num_wanted` tokens and return how many were left to take."""
        taken = min(num_wanted, self.num_tokens)
        self.num_tokens -= taken
        return taken

    def limit(self, num_tokens: int) -> None:
        """Leave no more than `num_tokens`."""
        self.num_tokens = min(self.num_tokens, num_tokens)

    def slice_prefills(self, prefilling: list[Sequence]) -> dict[Sequence, int]:
        """Take and return the slice of each of `prefilling`, in tokens; sequences without one are left out.

        prefilling: the sequences with tokens to prefill, oldest first.
        """
        first = prefilling[:1] if self._oldest_first else []
        others = sorted(prefilling[len(first) :], key=lambda sequence: sequence.num_prefill_tokens)
        slices = {sequence: self.take(sequence.num_prefill_tokens) for sequence in [*first, *others]}
        return {sequence: num_tokens for sequence, num_tokens in slices.items() if num_tokens}
