"""What sequences keep beside KV that grows: recurrent states, the KV of windows, checkpoints of both.

A row or slice reads its sequence's newest state and keeps the next one in another slot, so that no state is
ever copied: a slice leaves one in a slot wherever within it the prefix tree wants a checkpoint. A window's
blocks are freed behind the sequence (`window_manager.py`), but for those that a checkpoint needs.

Each running sequence is promised the slots and blocks without which it cannot go on. A sequence starts only
when its promise can be kept beside all others. Whatever else lies there can be dropped: checkpoints of the
prefix tree, and states that sequences keep for the tree (`spare_states.py`).
"""

from bisect import insort

from ..cache.blocks import BLOCK_SIZE
from ..cache.checkpoints import Checkpoints
from ..cache.state_slots import StateAllocator
from ..cache.state_store import StateStore
from ..cache.tree_nodes import TreePosition
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
from .spare_states import SpareStates
from .window_manager import WindowManager

KEPT_BESIDE = 2
"""Checkpoints that stay for each running sequence, if there are so many, when one starts beside others."""


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
        self._spare = SpareStates(self.store, self.checkpoints, counters)
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
                self._spare.release_passed(sequence)
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
        self._spare.commit(sequence)

    def free(self, sequence: Sequence) -> None:
        """Release all states of `sequence`, after the tree has got that of the answer's last full block.

        Call it before the sequence's blocks are freed.
        """
        if self._running.pop(sequence, None) is None:
            return
        self._spare.give_reply(sequence)
        for state in sequence.states.all:
            self.store.release(state.state)
        sequence.states = SequenceStates()
        self.windows.free(sequence)

    def take_slot(self) -> int | None:
        """Take a slot, for which one must be promised; return None for a model without recurrent states."""
        if not self.slots.num_slots:
            return None
        if not self.slots.num_free:
            self.drop_least()
        return self.slots.allocate()

    def drop_least(self, for_blocks: bool = False) -> None:
        """Free a slot, or blocks of windows, see `SpareStates.drop_least`."""
        self._spare.drop_least(self._running, for_blocks)
