"""What sequences keep beside KV that grows: recurrent states, the KV of windows, checkpoints of both.

A row or slice reads its sequence's newest state and keeps the next one in another slot, so that no state is
ever copied: a slice leaves one in a slot wherever within it the prefix tree wants a checkpoint. A window's
blocks are freed behind the sequence (`window_manager.py`), but for those that a checkpoint needs.

Each running sequence is promised the slots and blocks without which it cannot go on. A sequence starts only
when its promise can be kept beside all others. Whatever else lies there can be dropped: checkpoints of the
prefix tree, and states that sequences keep for the tree.
"""

import logging
from bisect import insort
from operator import itemgetter

from ..cache.blocks import BLOCK_SIZE
from ..cache.checkpoints import Checkpoints
from ..cache.state_slots import StateAllocator
from ..cache.state_store import StateStore
from ..cache.tree_nodes import Checkpoint, TreePosition
from ..engine.served_model import WindowPool
from ..engine.step import StateSlots
from .checkpoint_places import SPACING, checkpoint_places
from .counters import Counters
from .sequence import Sequence
from .sequence_states import (
    MAX_PENDING,
    MAX_PROMISED,
    HeldState,
    Purpose,
    SequenceStates,
    slots_needed,
)
from .window_manager import WindowManager

logger = logging.getLogger(__name__)

KEPT_BESIDE = 2
"""Checkpoints that stay for each running sequence, if there are so many, when one starts beside others."""

EVICTED_SHARE = 256
"""One checkpoint more is evicted at once for each so many: it takes a look at all of them."""


class StateManager:
    """State slots, windows and checkpoints. For a model that keeps all in KV it has none and does nothing.

    is_used: whether there are slots or windows. Callers for whom a call a row is dear look at it first.
    """

    def __init__(self, num_slots: int, counters: Counters, window: WindowPool | None = None) -> None:
        assert num_slots == 0 or num_slots >= MAX_PROMISED, "a sequence could never start"
        self.slots = StateAllocator(num_slots)
        self.windows = WindowManager(window)
        self.store = StateStore(self.slots, self.windows.allocator)
        self.checkpoints = Checkpoints(self.store)
        self._counters = counters
        self.is_used = num_slots > 0 or self.windows.is_used
        self._running: dict[Sequence, int] = {}  # with the slots that each is promised
        self.num_restored = 0  # states that are taken to be restored

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

    @property
    def _num_unpromised(self) -> int:
        """Slots that are promised to no running sequence, nor to a state that is restored."""
        return self.slots.num_slots - self.num_restored - sum(self._running.values())

    def has_room(self, sequence: Sequence) -> bool:
        """Whether `sequence`, which waits, can be promised what it needs.

        Beside running sequences some checkpoints stay, so that not every turn is computed from its beginning.
        """
        num_kept = min(len(self.checkpoints), KEPT_BESIDE * (len(self._running) + 1)) if self._running else 0
        return self.can_promise(slots_needed(sequence.request.constraint is not None) + num_kept)

    def can_promise(self, num_slots: int) -> bool:
        """Whether one more sequence or state can have `num_slots` slots and a window."""
        has_slots = not self.slots.num_slots or num_slots <= self._num_unpromised
        return has_slots and self.windows.has_room(len(self._running) + self.num_restored + 1)

    def start(self, sequence: Sequence, known: TreePosition, resumed: TreePosition) -> None:
        """Give `sequence` the state at `resumed`, and decide where it leaves checkpoints.

        known: where its cached prefix ends, and so where it goes on differently than earlier prompts.
        """
        if not self.is_used:
            return
        self._running[sequence] = slots_needed(sequence.request.constraint is not None)
        start, end = resumed.num_blocks * BLOCK_SIZE, len(sequence.tokens) - 1
        marks = [*sequence.request.checkpoints, known.num_blocks * BLOCK_SIZE, end]
        places, num_within = checkpoint_places(marks, start, end), 0 if self.slots.num_slots else None
        sequence.states = SequenceStates(places=places, last_checkpoint=start, num_within=num_within)
        checkpoint = resumed.node.checkpoint
        if checkpoint is not None:
            slot, window = checkpoint.state
            if slot is not None:
                self.slots.share(slot)
                sequence.states.chain.append(HeldState(start, slot, "row"))
            self.windows.start(sequence, start, list(window))
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

    def begin_step(self) -> None:
        """Let go of what no row or slice of the step to be planned, or of later ones, reads."""
        windows = self.windows if self.windows.is_used else None
        for sequence in self._running:
            if sequence.states.chain:
                self._release_passed(sequence)
            if windows:
                windows.release_passed(sequence)

    def divide_slots(self, prefilling: list[Sequence]) -> None:
        """Decide how many places each sequence's next slice may pass: slots that are promised to nobody."""
        num_left = self._num_unpromised
        for sequence in prefilling if self.slots.num_slots else ():
            num_within = sequence.states.num_within = min(num_left, len(sequence.states.places))
            num_left -= num_within

    def may_decode(self, sequence: Sequence) -> bool:
        """Whether the promised slots allow one more row of `sequence` before the next result."""
        return sequence.num_pending_tokens <= MAX_PENDING

    def advance(self, sequence: Sequence, num_tokens: int) -> StateSlots | None:
        """Take room for the state after `num_tokens`, which the step being planned computes.

        Returns None for a model without recurrent states. Call it after the blocks are reserved: it always
        succeeds.
        """
        if not self.is_used:
            return None
        states, chain, start = sequence.states, sequence.states.chain, sequence.num_computed_tokens
        assert not self.slots.num_slots or (chain[-1].num_tokens if chain else 0) == start
        before = chain[-1].slot if chain else None
        if self.windows.is_used:
            while self.windows.lacks_blocks(sequence, num_tokens):
                self.drop_least(for_blocks=True)
            self.windows.extend(sequence, num_tokens)
        purpose: Purpose = "row"
        within: list[tuple[int, int]] = []
        while states.places and states.places[0] < num_tokens:
            place, slot = states.places.pop(0), self.take_slot()
            if slot is not None:
                within.append((place - start, slot))
            chain.append(HeldState(place, slot, "checkpoint", self.windows.hold(sequence, place)))
        after = self.take_slot()
        if states.places and states.places[0] == num_tokens:
            del states.places[0]
            purpose = "checkpoint"
        elif num_tokens % BLOCK_SIZE == 0 and num_tokens >= len(sequence.tokens):
            purpose = "reply"
        if purpose != "row" or after is not None:
            window = () if purpose == "row" else self.windows.hold(sequence, num_tokens)
            chain.append(HeldState(num_tokens, after, purpose, window))
        return None if after is None else StateSlots(before, after, tuple(within))

    def go_back(self, sequence: Sequence) -> None:
        """Release the states after more tokens than now count as computed: a sample was refused."""
        chain = sequence.states.chain
        while chain and chain[-1].num_tokens > sequence.num_computed_tokens:
            self.store.release(chain.pop().state)

    def commit(self, sequence: Sequence) -> None:
        """Give the tree the checkpoints of `sequence` whose KV is committed."""
        states = sequence.states
        for state in states.all:
            if state.purpose == "checkpoint" and self._is_due(sequence, state, 1):
                self._put(sequence, state)
                if state in states.spare:
                    self._drop_spare(sequence, state)

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
            self.store.release(state.state)
        sequence.states = SequenceStates()
        self.windows.free(sequence)

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
        self._counters.checkpoints_taken += self.checkpoints.put(position, state.state, is_reply)
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
            if state.purpose == "row":
                assert state.slot is not None, "a row is kept for its slot alone"
                self.slots.release(state.slot)
                continue
            spacing = SPACING if state.purpose == "reply" else 1
            if state.num_tokens - states.last_checkpoint < spacing:
                self.store.release(state.state)
                continue
            if state.purpose == "reply":
                for older in [one for one in states.spare if one.purpose == "reply"]:
                    self._drop_spare(sequence, older)
            states.spare.append(state)

    def take_slot(self) -> int | None:
        """Take a slot, for which one must be promised; return None for a model without recurrent states."""
        if not self.slots.num_slots:
            return None
        if not self.slots.num_free:
            self.drop_least()
        return self.slots.allocate()

    def drop_least(self, for_blocks: bool = False) -> None:
        """Drop what is worth least of checkpoints and of states kept for the tree, which frees a slot.

        for_blocks: drop what has blocks of windows, where anything has blocks of its own.
        """
        num_at_once = 1 + len(self.checkpoints) // EVICTED_SHARE
        evictable = self.checkpoints.first_to_evict(num_at_once, for_blocks)
        if not self._drop_least_spare(evictable[0] if evictable else None):
            assert evictable, "more is promised than there is"
            self._evict(evictable)

    def _drop_least_spare(self, other: Checkpoint | None) -> bool:
        """Drop the state kept for the tree that saves least, if less than the checkpoint `other`."""
        spare = [
            (state.num_tokens - sequence.states.last_checkpoint, sequence, state)
            for sequence in self._running
            for state in sequence.states.spare
        ]
        if not spare:
            return False
        num_saved, sequence, state = min(spare, key=itemgetter(0))
        if other is not None and not self.checkpoints.is_worth_more(other, num_saved):
            return False
        self._drop_spare(sequence, state)
        return True

    def _drop_spare(self, sequence: Sequence, state: HeldState) -> None:
        sequence.states.spare.remove(state)
        self.store.release(state.state)

    def _evict(self, checkpoints: list[Checkpoint]) -> None:
        for checkpoint in checkpoints:
            self.checkpoints.evict(checkpoint)
        self._counters.checkpoints_evicted += len(checkpoints)
        logger.debug("%d checkpoints are evicted", len(checkpoints))
