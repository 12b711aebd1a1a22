"""What one step may still compute. Lives for one step."""

from .sequence import Sequence


class StepBudget:
    """The tokens left in a step, and how waiting prefills share them.

    Half goes to the oldest prefill, so that it always advances; the rest goes to the shortest ones, so that a
    short prompt does not wait behind a long one; what they leave goes to the oldest again.
    """

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens

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
        if not prefilling:
            return {}
        oldest = prefilling[0]
        shares = {oldest: self.take(min(oldest.num_to_prefill, (self.num_tokens + 1) // 2))}
        for sequence in sorted(prefilling[1:], key=lambda other: other.num_to_prefill):
            shares[sequence] = self.take(sequence.num_to_prefill)
        shares[oldest] += self.take(oldest.num_to_prefill - shares[oldest])
        return {sequence: share for sequence, share in shares.items() if share}
