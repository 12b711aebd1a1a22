"""Sequences of given tokens, for checks of a model before it is served."""

from ..cache.blocks import BlockTable
from .attention.paged_model import PagedModel
from .step import DecodeRow, PrefillChunk, SamplingParams, StateSlots


class TrialSequence:
    """A sequence whose tokens are known beforehand, computed piece by piece in their order."""

    def __init__(self, paged: PagedModel, seq_id: int, blocks: list[int]) -> None:
        """Make a sequence whose KV lies in `blocks`, and its states in two slots of its own, in turns."""
        self._vocab_size, self._has_states = paged.vocab_size, bool(paged.states)
        self._seq_id = seq_id
        self._table = BlockTable()
        self._table.extend(blocks)
        self._state_slot: int | None = None

    def tokens(self, start: int, end: int) -> list[int]:
        """Return the tokens of the positions from `start` to `end`."""
        return [(self._seq_id + 7919 * position) % self._vocab_size for position in range(start, end)]

    def chunk(self, start: int, end: int) -> PrefillChunk:
        """Return the slice of the positions from `start` to `end`."""
        slots = self._table.slot_ranges(end)
        return PrefillChunk(self._seq_id, self.tokens(start, end), start, slots, self._state())

    def row(self, position: int) -> DecodeRow:
        """Return the decode row that feeds the token of `position`."""
        (token,), slots = self.tokens(position, position + 1), self._table.slot_ranges(position + 1)
        return DecodeRow(self._seq_id, token, position, slots, SamplingParams(), None, self._state())

    def _state(self) -> StateSlots | None:
        if not self._has_states:
            return None
        before, first = self._state_slot, 2 * self._seq_id
        self._state_slot = first if before != first else first + 1
        return StateSlots(before, self._state_slot)


def state_slots(paged: PagedModel, num_sequences: int) -> int:
    """Return the state slots that trial sequences with the numbers below `num_sequences` need."""
    return 2 * num_sequences if paged.states else 0
