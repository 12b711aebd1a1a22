"""Sequences of given tokens, for checks of a model before it is served."""

from dataclasses import replace

from ..cache.blocks import BLOCK_SIZE, BlockTable, WindowTable
from .attention.paged_model import PagedModel
from .step import DecodeRow, PrefillChunk, SamplingParams, SlotRange, StateSlots


class TrialSequence:
    """A sequence whose tokens are known beforehand, computed piece by piece in their order."""

    def __init__(self, paged: PagedModel, seq_id: int, blocks: list[int]) -> None:
        """Make a sequence whose KV lies in `blocks`, and its states in three slots of its own, in turns.

        Layers that forget what their windows have passed use the last of the same blocks in their pools.
        """
        self._vocab_size, self._has_states = paged.vocab_size, bool(paged.states)
        self._seq_id = seq_id
        self._table = BlockTable()
        self._table.extend(blocks)
        self._window, self._window_table = paged.kept_window if paged.forgets_windows else None, WindowTable()
        self._window_table.begin(0, blocks)
        self._state_slot: int | None = None

    def tokens(self, start: int, end: int) -> list[int]:
        """Return the tokens of the positions from `start` to `end`."""
        return [(self._seq_id + 7919 * position) % self._vocab_size for position in range(start, end)]

    def chunk(self, start: int, end: int) -> PrefillChunk:
        """Return the slice of the positions from `start` to `end`."""
        slots = self._table.slot_ranges(end)
        windows = self._window_ranges(start, end)
        return PrefillChunk(self._seq_id, self.tokens(start, end), start, slots, self._state(), windows)

    def parted_chunk(self, start: int, end: int, goes_back: bool) -> list[PrefillChunk]:
        """Return that slice with a state in its middle.

        goes_back: let a slice follow that begins in the middle again, with the state from there.
        """
        whole, middle = self.chunk(start, end), (start + end) // 2
        if whole.state is None or middle == start:
            return [whole]
        before, after, _ = whole.state
        unused = 3 * self._seq_id + 2
        in_middle, at_end = (after, unused) if goes_back else (unused, after)
        parted = replace(whole, state=StateSlots(before, at_end, ((middle - start, in_middle),)))
        return [parted, self.chunk(middle, end)] if goes_back else [parted]

    def row(self, position: int) -> DecodeRow:
        """Return the decode row that feeds the token of `position`."""
        (token,), slots = self.tokens(position, position + 1), self._table.slot_ranges(position + 1)
        state, windows = self._state(), self._window_ranges(position, position + 1)
        sampling = SamplingParams()
        return DecodeRow(self._seq_id, token, position, slots, sampling, None, state, window_ranges=windows)

    def _window_ranges(self, start: int, end: int) -> tuple[SlotRange, ...]:
        """Return the slots of the positions up to `end` that those from `start` on see."""
        if self._window is None:
            return ()
        self._window_table.drop(max(0, start - self._window + 1) // BLOCK_SIZE)
        return self._window_table.slot_ranges(end)

    def _state(self) -> StateSlots | None:
        if not self._has_states:
            return None
        before, first = self._state_slot, 3 * self._seq_id
        self._state_slot = first if before != first else first + 1
        return StateSlots(before, self._state_slot)


def state_slots(paged: PagedModel, num_sequences: int) -> int:
    """Return the state slots that trial sequences with the numbers below `num_sequences` need."""
    return 3 * num_sequences if paged.states else 0
