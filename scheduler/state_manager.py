"""Recurrent states as sequences use them: the slots that they hold, and the checkpoints that they leave.

A row or slice reads its sequence's newest state and keeps the next one in another slot, so that no state is
ever copied: a slice that ends where the prefix tree wants a checkpoint leaves it there.

Each running sequence is promised the slots without which it cannot go on. A sequence starts only when its
promise can be kept beside all others. Whatever else lies in slots can be dropped: checkpoints of the prefix
tree, and states that sequences keep for the tree.
"""

import logging
from bisect import insort
from operator import itemgetter

from ..cache.blocks import BLOCK_SIZE
from ..cache.checkpoints import Checkpoints
from ..cache.state_slots import StateAllocator
from ..cache.tree_nodes import TreePosition
from ..engine.step import StateSlots
from .checkpoint_places import SPACING, checkpoint_places
from .counters import Counters
from .sequence import Sequence
from .sequence_states import HeldState, SequenceStates

logger = logging.getLogger(__name__)

MAX_PENDING = 1
"""Most steps by which a sequence with states is planned ahead of its last known token."""

MAX_PROMISED = 2 + MAX_PENDING
"""Most slots that a sequence is promised."""

EVICTED_SHARE = 256
"""One in so many slots, and one more, is freed at once: it takes a look at all checkpoints."""


class StateManager:
    """State slots and checkpoints. For a model without recurrent states it has no slots and does nothing.

    is_used: whether there are slots. Callers for whom a call a row is dear look at it first.
    """

    def __init__(self, num_slots: int, counters: Counters) -> None:
        assert num_slots == 0 or num_slots >= MAX_PROMISED, "a sequence could never start"
        self.slots = StateAllocator(num_slots)
        self.checkpoints = Checkpoints(self.slots)
        self._counters = counters
        self.is_used = num_slots > 0
        self._running: dict[Sequence, int] = {}  # with the slots that each is promised

    def resumable(self, known: TreePosition) -> TreePosition:
        """Return the longest prefix of the cached one at `known` that a sequence can go on from.

        The checkpoint there, if any, counts as used.
        """
        if not self.is_used:
            return known
        position = known.checkpointed
        if position.node.checkpoint is not None:
            self.checkpoints.touch(position.node.checkpoint)
        return position

    def has_room(self, sequence: Sequence) -> bool:
        """Whether `sequence`, which waits, can be promised what it needs."""
        promised = sum(self._running.values()) + _num_needed(sequence)
        return not self.is_used or promised <= self.slots.num_slots

    def start(self, sequence: Sequence, known: TreePosition, resumed: TreePosition) -> None:
        """Give `sequence` the state at `resumed`, and decide where it leaves checkpoints.

        known: where its cached prefix ends, and so where it goes on differently than earlier prompts.
        """
        if not self.is_used:
            return
        self._running[sequence] = _num_needed(sequence)
        start, end = resumed.num_blocks * BLOCK_SIZE, len(sequence.tokens) - 1
        marks = [*sequence.request.checkpoints, known.num_blocks * BLOCK_SIZE, end]
        sequence.states = SequenceStates(places=checkpoint_places(marks, start, end), last_checkpoint=start)
        checkpoint = resumed.node.checkpoint
        if checkpoint is not None:
            self.slots.share(checkpoint.slot)
            sequence.states.chain.append(HeldState(start, checkpoint.slot, "row"))
            self._counters.checkpoints_thinned += self.checkpoints.use(checkpoint)

    def shared_checkpoint(self, producer: Sequence, num_shared: int) -> int:
        """Return after how many tokens, up to `num_shared`, a sequence can go on from the work of `producer`.

        num_shared: length of the prefix, in full blocks, that a waiting sequence shares with `producer`,
        which runs. Where it pays and the producer has not been planned so far, it will leave a checkpoint
        there.
        """
        if not self.is_used:
            return num_shared
        states = producer.states
        left = [state.num_tokens for state in states.all if state.purpose == "checkpoint"]
        places = [states.last_checkpoint, *left, *states.places]
        deepest = max((place for place in places if place <= num_shared), default=0)
        if num_shared - deepest < SPACING or num_shared <= producer.num_computed_tokens:
            return deepest
        insort(states.places, num_shared)
        return num_shared

    def may_decode(self, sequence: Sequence) -> bool:
        """Whether the promised slots allow one more row of `sequence` before the next result."""
        return sequence.num_pending_tokens <= MAX_PENDING

    def advance(self, sequence: Sequence, num_tokens: int) -> StateSlots | None:
        """Take a slot for the state after `num_tokens`, which the step being planned computes.

        Returns None for a model without states. Call it after the blocks are reserved: it always succeeds.
        """
        if not self.is_used:
            return None
        states = sequence.states
        # Only now, because rows of earlier steps alone read what is released here.
        self._release_passed(sequence)
        assert (states.chain[-1].num_tokens if states.chain else 0) == sequence.num_computed_tokens
        before = states.chain[-1].slot if states.chain else None
        if not self.slots.num_free:
            self._make_room()
        after = self.slots.allocate()
        if states.places and states.places[0] == num_tokens:
            del states.places[0]
            states.chain.append(HeldState(num_tokens, after, "checkpoint"))
        else:
            ends_block = num_tokens >= len(sequence.tokens) and num_tokens % BLOCK_SIZE == 0
            states.chain.append(HeldState(num_tokens, after, "reply" if ends_block else "row"))
        return StateSlots(before, after)

    def go_back(self, sequence: Sequence) -> None:
        """Release the states after more tokens than now count as computed: a sample was refused."""
        chain = sequence.states.chain
        while chain and chain[-1].num_tokens > sequence.num_computed_tokens:
            self.slots.release(chain.pop().slot)

    def commit(self, sequence: Sequence) -> None:
        """Give the tree the checkpoints of `sequence` whose KV is committed."""
        states = sequence.states
        for state in states.all:
            if state.purpose == "checkpoint" and self._is_due(sequence, state, 1):
                self._put(sequence, state)
                if state in states.spare:
                    states.spare.remove(state)
                    self.slots.release(state.slot)

    def free(self, sequence: Sequence) -> None:
        """Release all states of `sequence`, after the tree has got that of the answer's last full block.

        Call it before the sequence's blocks are freed.
        """
        if self._running.pop(sequence, None) is None:
            return
        states = sequence.states
        replies = [state for state in states.all if state.purpose == "reply"]
        due = [state for state in replies if self._is_due(sequence, state, SPACING)]
        if due:
            self._put(sequence, due[-1])
        for state in states.all:
            self.slots.release(state.slot)
        sequence.states = SequenceStates()

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
        self._counters.checkpoints_taken += self.checkpoints.put(position, state.slot, is_reply)
        assert position.node.checkpoint is not None
        self._counters.checkpoints_thinned += self.checkpoints.thin(
            position.node.checkpoint, sequence.request.checkpoints
        )
        sequence.states.last_checkpoint = state.num_tokens

    def _release_passed(self, sequence: Sequence) -> None:
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
                self.slots.release(state.slot)
                continue
            if state.purpose == "reply":
                for older in [one for one in states.spare if one.purpose == "reply"]:
                    states.spare.remove(older)
                    self.slots.release(older.slot)
            states.spare.append(state)

    def _make_room(self) -> None:
        """Free a slot at least: drop what is worth least of checkpoints and states kept for the tree."""
        evictable = self.checkpoints.first_to_evict(1 + self.slots.num_slots // EVICTED_SHARE)
        spare = [
            (state.num_tokens - sequence.states.last_checkpoint, sequence, state)
            for sequence in self._running
            for state in sequence.states.spare
        ]
        if spare:
            num_saved, sequence, state = min(spare, key=itemgetter(0))
            if not evictable or self.checkpoints.is_worth_more(evictable[0], num_saved):
                sequence.states.spare.remove(state)
                self.slots.release(state.slot)
                return
        assert evictable, "more slots are promised than there are"
        for checkpoint in evictable:
            self.checkpoints.evict(checkpoint)
        self._counters.checkpoints_evicted += len(evictable)
        logger.debug("%d checkpoints are evicted", len(evictable))


def _num_needed(sequence: Sequence) -> int:
    """Return the slots without which `sequence` cannot go on: the state that a row reads, and the next one.

    Where samples may be refused, the state before the one that was planned ahead is needed too.
    """
    return 2 + (MAX_PENDING if sequence.request.constraint is not None else 0)
