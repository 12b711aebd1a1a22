"""What one step may still compute. Lives for one step."""

from .sequence import Sequence


class StepBudget:
    """The tokens left in a step, and which waiting prefills they go to.

    One after the other takes all that it can use, since a slice costs a pass over the model, however short.
    Steps take turns: in every other one the oldest prefill comes first, so that it always advances; in the
    others the shortest, so that a short prompt does not wait behind a long one.
    """

    def __init__(self, num_tokens: int, step_id: int) -> None:
        self.num_tokens = num_tokens
        self._oldest_first = step_id % 2 == 0

    def take(self, wanted: int) -> int:
        """Take up to `wanted` tokens and return how many were left to take."""
        taken = min(wanted, self.num_tokens)
        self.num_tokens -= taken
        return taken

    def limit(self, num_tokens: int) -> None:
        """Leave no more than `num_tokens`."""
        self.num_tokens = min(self.num_tokens, num_tokens)

    def shares(self, prefilling: list[Sequence]) -> dict[Sequence, int]:
        """Tokens that each of `prefilling` (oldest first) may compute in this step; takes them."""
        first = prefilling[:1] if self._oldest_first else []
        others = sorted(prefilling[len(first) :], key=lambda sequence: sequence.num_to_prefill)
        shares = {sequence: self.take(sequence.num_to_prefill) for sequence in [*first, *others]}
        return {sequence: share for sequence, share in shares.items() if share}
