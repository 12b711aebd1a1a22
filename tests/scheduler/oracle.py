"""A runner without a model: its KV slots hold token ids, and the next token is a hash of those.

A sequence that reads a wrong, stale or unwritten slot gets other tokens than `spell()` says.
"""

from collections.abc import Callable

from pensieve.engine.step import DecodeRow, SlotRange, StepFailed, StepPlan, StepResult

from .residues import is_allowed

VOCAB = 1000


def next_token(tokens: list[int]) -> int:
    """Return the token that the make-believe model samples after `tokens`."""
    return hash(tuple(tokens)) % VOCAB


def nearest(token: int, allowed: bytes | None) -> int:
    """`token` if it is allowed, else the next one that is; 0 where none is, as the sampler has it."""
    candidates = ((token + i) % VOCAB for i in range(VOCAB))
    return next((candidate for candidate in candidates if is_allowed(candidate, allowed)), 0)


def spell(prompt: list[int], count: int) -> list[int]:
    """`prompt` and the `count` tokens that the model says after it."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens


class OracleRunner:
    """Computes a step at once, but hands results out `lag` steps later, as a real device does."""

    def __init__(
        self, num_slots: int, lag: int = 0, breaks: Callable[[StepPlan], bool] = lambda _: False
    ) -> None:
        self._slots = [-1] * num_slots
        self._lag = lag
        self._breaks = breaks
        self._results: list[StepResult] = []
        self.plans: list[StepPlan] = []

    def step(self, plan: StepPlan) -> StepResult | None:
        self.plans.append(plan)
        if self._breaks(plan):
            self._results.clear()
            self._slots = [-1] * len(self._slots)
            raise StepFailed("scripted")
        tokens = {row.seq_id: self._decode(row) for row in plan.decode}
        for chunk in plan.prefill:
            for slot, token in zip(_slots(chunk.slot_ranges)[chunk.start :], chunk.tokens, strict=True):
                self._slots[slot] = token
        self._results.append(StepResult(plan.step_id, tokens, 1e-5 * plan.num_tokens))
        return self._results.pop(0) if len(self._results) > self._lag else None

    def drain(self) -> StepResult | None:
        return self._results.pop(0) if self._results else None

    def _decode(self, row: DecodeRow) -> int:
        slots = _slots(row.slot_ranges)
        assert len(slots) == row.position + 1
        token = row.token if row.token is not None else self._results[-1].tokens[row.seq_id]
        self._slots[slots[-1]] = token
        return nearest(next_token([self._slots[slot] for slot in slots]), row.allowed)


def _slots(slot_ranges: tuple[SlotRange, ...]) -> list[int]:
    return [slot for first, end in slot_ranges for slot in range(first, end)]
