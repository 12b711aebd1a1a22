"""The tokens and the time of one step."""

from ..engine.step import DecodeRow
from .sequence import Sequence
from .step_cost import StepCost
from .step_load import StepLoad

PROMPT_SHARE = 1 / 2
"""Share of a step's time that waiting prompts are due beside decode rows, whatever the target says."""

PASS_SHARE = 1 / 3
"""Share of a slice's cost that its pass over the model may be, whatever the target says."""

PROMPTS_ONLY_S = 0.5
"""Seconds of a step without decode rows: a request that arrives waits so long at most for its first step."""


class StepBudget:
    """What is left of one step, and how prefills share it.

    Beside decode rows a step may take the target time, or longer where prompts would get less than their
    share of it. One sequence after another takes as many tokens as it has to prefill and as fit, since every
    slice costs a pass over the model, however short. Of equally urgent sequences the oldest one comes first
    in steps of even number, so that it always advances. All others come in order of their length, so that a
    short prompt does not wait for a long one.
    """

    def __init__(self, step_id: int, num_tokens: int, target_s: float, cost: StepCost) -> None:
        """num_tokens: most tokens of the step. target_s: seconds that a step with decode rows may take."""
        self._oldest_first = step_id % 2 == 0
        self._num_tokens = num_tokens
        self._target_s = target_s
        self._cost = cost
        self._load = self._rows = StepLoad()

    @property
    def has_room(self) -> bool:
        """Whether any tokens are left."""
        return self._num_tokens > 0

    def take_rows(self, rows: list[DecodeRow]) -> None:
        """Take the tokens and the time of the step's decode rows, before any slice."""
        self._num_tokens -= len(rows)
        self._load = self._rows = StepLoad(len(rows), sum(row.position + 1 for row in rows))

    def slice_prefills(self, prefilling: list[Sequence]) -> dict[Sequence, int]:
        """Divide what is left. Returns how many tokens each sequence gets; one that gets none is left out.

        prefilling: equally urgent sequences with tokens to prefill, oldest first. More urgent ones have had
        their slices.
        """
        if not prefilling or (self._load.rows and self._cost.needs_rows_alone):
            return {}
        limit_s = self._limit_s()
        first = prefilling[:1] if self._oldest_first else []
        others = sorted(prefilling[len(first) :], key=lambda sequence: sequence.num_prefill_tokens)
        slices: dict[Sequence, int] = {}
        for sequence in [*first, *others]:
            if num_tokens := self._slice(sequence, limit_s):
                slices[sequence] = num_tokens
                self._num_tokens -= num_tokens
                self._load = self._load.with_slice(sequence.num_computed_tokens, num_tokens)
        return slices

    def _limit_s(self) -> float:
        """Return the seconds that the step may take."""
        if not self._rows.rows:
            return max(self._target_s, PROMPTS_ONLY_S)
        return max(self._target_s, self._cost.predict(self._rows) / (1 - PROMPT_SHARE))

    def _slice(self, sequence: Sequence, limit_s: float) -> int:
        """Return how many tokens of `sequence` the step may compute beside what it has already."""
        wanted, start = sequence.num_slice_tokens, sequence.num_computed_tokens
        room = min(self._num_tokens, self._cost.known_tokens - self._load.tokens)
        if room <= 0:
            return 0
        fitting = self._cost.tokens_within(self._load, start, limit_s)
        least = min(wanted, self._cost.worthwhile_tokens(self._load, start, PASS_SHARE))
        if self._load.slices and min(fitting, room) < least:
            return 0  # a pass for few tokens: the next step has room for more
        most = min(room, max(fitting, least))
        if wanted <= min(room, most + most // 8):  # rather than another pass for a few tokens
            return wanted
        return _round_down(most)


def _round_down(num_tokens: int) -> int:
    """Return the next length below, of eight an octave: some devices plan or compile for each new length."""
    return num_tokens - num_tokens % (1 << max(0, num_tokens.bit_length() - 4))
