"""States that sequences hold for the prefix tree: they become checkpoints of it, or make room.

A sequence leaves a state wherever the tree wants a checkpoint, and the tree takes it as soon as the KV of its
tokens is committed. Until then, and for the last state of an answer until its end, the sequence keeps it as a
spare. Where slots or blocks of windows run short, the spare or the checkpoint that is worth least is dropped.
"""

import logging
from collections.abc import Iterable
from operator import itemgetter

from ..cache.checkpoints import Checkpoints
from ..cache.state_store import StateStore
from ..cache.tree_nodes import Checkpoint
from .checkpoint_places import SPACING
from .counters import Counters
from .sequence import Sequence
from .sequence_states import HeldState

logger = logging.getLogger(__name__)

EVICTED_SHARE = 256
"""One checkpoint more is evicted at once for each so many: it takes a look at all of them."""


class SpareStates:
    """Moves states from sequences to the tree, and drops what is worth least of both."""

    def __init__(self, store: StateStore, checkpoints: Checkpoints, counters: Counters) -> None:
        self._store = store
        self._checkpoints = checkpoints
        self._counters = counters

    def commit(self, sequence: Sequence) -> None:
        """Give the tree the checkpoints of `sequence` whose KV is committed."""
        states = sequence.states
        for state in states.all:
            if state.purpose == "checkpoint" and self._is_due(sequence, state, 1):
                self._put(sequence, state)
                if state in states.spare:
                    self._drop_spare(sequence, state)

    def give_reply(self, sequence: Sequence) -> None:
        """Give the tree the state of the answer's last full block; `sequence` ends."""
        replies = [state for state in sequence.states.all if state.purpose == "reply"]
        due = [state for state in replies if self._is_due(sequence, state, SPACING)]
        if due:
            self._put(sequence, due[-1])

    def _is_due(self, sequence: Sequence, state: HeldState, spacing: int) -> bool:
        """Whether the state's tokens are committed, at least `spacing` of them after the last checkpoint."""
        is_new = state.num_tokens - sequence.states.last_checkpoint >= spacing
        return is_new and state.num_tokens <= sequence.num_committed_tokens

    def _put(self, sequence: Sequence, state: HeldState) -> None:
        """Give `state` to the tree as a checkpoint, unless its node has one or has left the tree."""
        position = sequence.position_at(state.num_tokens)
        if position is None:
            return
        is_reply = state.purpose == "reply"
        self._counters.checkpoints_taken += self._checkpoints.put(position, state.state, is_reply)
        assert position.node.checkpoint is not None
        self._counters.checkpoints_thinned += self._checkpoints.thin(
            position.node.checkpoint, sequence.request.checkpoints
        )
        sequence.states.last_checkpoint = state.num_tokens

    def release_passed(self, sequence: Sequence) -> None:
        """Release the states that no row of `sequence` will read again, but for those that the tree wants.

        After a refused sample the last known token is fed again, so the state before it is kept.
        """
        states, num_known = sequence.states, len(sequence.tokens)
        first = num_known - 1 if sequence.request.constraint is not None else num_known
        first = min(first, sequence.num_computed_tokens)
        while states.chain and states.chain[0].num_tokens < first:
            state = states.chain.pop(0)
            spacing = SPACING if state.purpose == "reply" else 1
            if state.purpose == "row" or state.num_tokens - states.last_checkpoint < spacing:
                self._store.release(state.state)
                continue
            if state.purpose == "reply":
                for older in [one for one in states.spare if one.purpose == "reply"]:
                    self._drop_spare(sequence, older)
            states.spare.append(state)

    def drop_least(self, running: Iterable[Sequence], for_blocks: bool = False) -> None:
        """Drop what is worth least of checkpoints and of states kept for the tree, which frees a slot.

        running: the sequences that hold states.
        for_blocks: drop what has blocks of windows, where anything has blocks of its own.
        """
        num_at_once = 1 + len(self._checkpoints) // EVICTED_SHARE
        evictable = self._checkpoints.first_to_evict(num_at_once, for_blocks)
        if not self._drop_least_spare(running, evictable[0] if evictable else None):
            assert evictable, "more is promised than there is"
            self._evict(evictable)

    def _drop_least_spare(self, running: Iterable[Sequence], other: Checkpoint | None) -> bool:
        """Drop the state kept for the tree that saves least, if less than the checkpoint `other`."""
        spare = [
            (state.num_tokens - sequence.states.last_checkpoint, sequence, state)
            for sequence in running
            for state in sequence.states.spare
        ]
        if not spare:
            return False
        num_saved, sequence, state = min(spare, key=itemgetter(0))
        if other is not None and not self._checkpoints.is_worth_more(other, num_saved):
            return False
        self._drop_spare(sequence, state)
        return True

    def _drop_spare(self, sequence: Sequence, state: HeldState) -> None:
        sequence.states.spare.remove(state)
        self._store.release(state.state)

    def _evict(self, checkpoints: list[Checkpoint]) -> None:
        for checkpoint in checkpoints:
            self._checkpoints.evict(checkpoint)
        self._counters.checkpoints_evicted += len(checkpoints)
        logger.debug("%d checkpoints are evicted", len(checkpoints))
