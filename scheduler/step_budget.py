"""The token budget of one step."""

from .sequence import Sequence


class StepBudget:
    """The tokens left in a step, and how prefills share them.

    One sequence after another takes as many tokens as it has to prefill, since every slice costs a pass over
    the model, however short. In steps of even number the oldest sequence comes first, so that it always
    advances. All others come in order of their length, so that a short prompt does not wait for a long one.
    """

    def __init__(self, num_tokens: int, step_id: int) -> None:
        self.num_tokens = num_tokens
        self._oldest_first = step_id % 2 == 0

    def take(self, num_wanted: int) -> int:
        """Take `num_wanted` tokens, or as many as are left. Returns how many were taken."""
        taken = min(num_wanted, self.num_tokens)
        self.num_tokens -= taken
        return taken

    def limit(self, num_tokens: int) -> None:
        """Leave no more than `num_tokens`."""
        self.num_tokens = min(self.num_tokens, num_tokens)

    def slice_prefills(self, prefilling: list[Sequence]) -> dict[Sequence, int]:
        """Divide the tokens left. Returns how many each sequence gets; a sequence that gets none is left out.

        prefilling: the sequences with tokens to prefill, oldest first.
        """
        first = prefilling[:1] if self._oldest_first else []
        others = sorted(prefilling[len(first) :], key=lambda sequence: sequence.num_prefill_tokens)
        slices = {sequence: self.take(sequence.num_prefill_tokens) for sequence in [*first, *others]}
        return {sequence: num_tokens for sequence, num_tokens in slices.items() if num_tokens}
