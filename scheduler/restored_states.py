"""Room for states that are read from disk: a slot, blocks of windows, or both."""

from ..cache.state_store import KeptState
from ..cache.tree_nodes import TreePosition
from .counters import Counters
from .state_manager import StateManager


class RestoredStates:
    """Takes room for states as long as all sequences can still be kept their promises."""

    def __init__(self, states: StateManager, counters: Counters) -> None:
        self._states = states
        self._counters = counters

    def take(self, num_blocks: int) -> KeptState | None:
        """Take room for the state after `num_blocks` blocks, or return None. Give it back with `give`."""
        states = self._states
        if not states.can_promise(1):
            return None
        states.num_restored += 1
        slot = states.take_slot()
        num_window = min(num_blocks, states.windows.num_kept)
        while states.windows.allocator.num_free < num_window:
            states.drop_least(for_blocks=True)
        return KeptState(slot, tuple(states.windows.allocator.allocate(num_window)))

    def give(self, state: KeptState, position: TreePosition | None) -> None:
        """Release `state`, after the tree has got it at `position`, if it is restored."""
        self._states.num_restored -= 1
        if position is not None:
            put = self._states.checkpoints.put(position, state, is_reply=False)
            self._counters.checkpoints_taken += put
        self._states.store.release(state)
