"""What a sequence leaves behind at some token, beside the KV that layers without a window keep of it all.

It is the recurrent state in a state slot, and the blocks with the KV of the last tokens for layers that see a
window only. With both, and with the other layers' KV, a sequence goes on from there. Blocks and slots are
shared by reference: two such states that lie less than a window apart have blocks in common.

This module knows neither tokens nor arrays.
"""

from typing import NamedTuple

from .blocks import BlockAllocator
from .state_slots import StateAllocator


class KeptState(NamedTuple):
    """A sequence's state after some tokens, at a block's end where it has a window."""

    slot: int | None = None  # of the recurrent state; None for models without recurrent layers
    window: tuple[int, ...] = ()  # blocks of the last tokens, in order; of layers that see a window only


class StateStore:
    """Counts the holders of states: each holds a slot, blocks, or both."""

    def __init__(self, slots: StateAllocator, windows: BlockAllocator) -> None:
        """windows: allocates the blocks of layers that see a window only."""
        self._slots = slots
        self._windows = windows

    def release(self, state: KeptState) -> None:
        """Drop one holder of `state`."""
        slot, window = state
        if slot is not None:
            self._slots.release(slot)
        if window:
            self._windows.release(list(window))

    def enter_tree(self, state: KeptState) -> None:
        """Add the prefix tree as a holder of `state`, which a sequence holds."""
        if state.slot is not None:
            self._slots.enter_tree(state.slot)
        for block in state.window:
            self._windows.enter_tree(block)

    def leave_tree(self, state: KeptState) -> None:
        """Drop the prefix tree as a holder of `state`."""
        if state.slot is not None:
            self._slots.leave_tree(state.slot)
        for block in state.window:
            self._windows.leave_tree(block)

    def frees_slot(self, state: KeptState) -> float:
        """Return 1 if the slot of `state` becomes free when its only known holder drops it, else 0."""
        return float(state.slot is not None and self._slots.ref_count(state.slot) == 1)

    def frees_blocks(self, state: KeptState) -> float:
        """Return the share of the blocks of `state` that become free when one holder drops them."""
        return self._windows.num_unshared(list(state.window)) / max(1, len(state.window))
