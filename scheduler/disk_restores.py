"""Prefixes that are read from disk before their requests begin: the server's side of reading.

A waiting sequence whose prompt goes on on disk, further than in memory, waits for a restore where reading is
faster than computing. The restore holds blocks, and a state where the model has states, that the engine
fills; then they enter the prefix tree, and the sequence finds them there like any other prefix. Sequences
that need the same file share a restore. Whatever fails is computed instead, and no request notices.
"""

import logging
from dataclasses import dataclass, field

from ..cache.blocks import BLOCK_SIZE
from ..cache.disk.chains import Chain
from ..cache.disk.index import DiskIndex
from ..cache.disk.orders import ReadOrder, ReadOutcome
from ..cache.disk.read_rules import ReadPace
from ..cache.state_store import KeptState
from ..cache.tree_nodes import Owner, TreePosition
from ..engine.step import NO_BLOCK, RestoreOrder, StepPlan
from .kv_cache_manager import KVCacheManager
from .restored_states import RestoredStates
from .sequence import Sequence
from .step_cost import StepCost

logger = logging.getLogger(__name__)

IN_FLIGHT_BYTES = 2**27
"""Most bytes of files that the engine reads at once, but for one file."""

MAX_STATES = 8
"""States on disk that are tried for a prompt, the deepest one first: their KV may be gone."""


@dataclass(slots=True, eq=False)
class Restore:
    """A prefix on its way from disk into the pools.

    held: blocks of the whole prefix: those that were in memory when it began, then those that are filled.
    """

    tokens: list[int]
    held: list[int]
    num_known: int  # of `held`, those that were in memory
    state: KeptState | None  # to be filled; it is that after the last block
    waiting: list[RestoreOrder]  # that the engine has not got
    reads: list[ReadOrder]
    owner: Owner | None  # the conversation that goes on from there
    space: bytes  # see Account
    pace: ReadPace
    num_restored: int = 0  # of `held`, counting known ones, that can be used
    reading: dict[str, int] = field(default_factory=dict)  # bytes by path that the engine has got
    is_state_ready: bool = False
    is_void: bool = False  # the prefix tree was emptied: what is read must not enter it
    is_over: bool = False

    @property
    def position(self) -> TreePosition | None:
        """None: sequences that wait for the restore may share but a part of its prefix with one another."""
        return None

    @property
    def start(self) -> int:
        """Tokens that were in memory."""
        return self.num_known * BLOCK_SIZE

    @property
    def end(self) -> int:
        """Tokens that were in memory or are restored."""
        return self.num_restored * BLOCK_SIZE


class DiskRestores:
    """The restores under way.

    active: they hold blocks, and states where the model has them, beside those of running sequences.
    """

    def __init__(
        self, index: DiskIndex, kv_cache: KVCacheManager, states: RestoredStates, cost: StepCost
    ) -> None:
        self._index, self._kv_cache, self._states, self._cost = index, kv_cache, states, cost
        self.active: list[Restore] = []

    @property
    def is_busy(self) -> bool:
        """Whether anything is being restored."""
        return bool(self.active)

    def waits(self, sequence: Sequence, watermark: int) -> bool:
        """Whether `sequence`, which could start now, waits for a restore; one begins where it pays.

        watermark: blocks, free or evictable, that must stay available to other sequences.
        """
        if sequence.is_searched or sequence.tree_position is None:
            return False
        if self._kv_cache.is_refused(sequence, watermark) or not self._kv_cache.states.has_room(sequence):
            return False  # without a look-up: there is no room
        # A token is left to compute.
        chain = self._index.chain(sequence.tokens[: len(sequence.tokens) - 1], sequence.space)
        orders, state = self._find(chain, sequence.tree_position)
        if not orders and state is None:
            sequence.is_searched = True
            return False
        reads = orders + ([state] if state is not None else [])
        paths = {order.path for order in reads}
        for restore in self.active:
            if not paths.isdisjoint(order.path for order in restore.reads):
                sequence.prefix_wait = restore
                return True
        return self._begin(sequence, orders, state, watermark)

    def plan(self, plan: StepPlan) -> None:
        """Add to `plan` the files that the engine reads next, and those that it reads too slowly.

        What is given up is computed instead, from the last block that is restored.
        """
        for restore in self.active:
            if restore.pace.is_too_slow(self._seconds_to_compute(restore)):
                restore.waiting.clear()
                plan.abandons.extend(restore.reading)
        num_bytes = sum(sum(restore.reading.values()) for restore in self.active)
        for restore in self.active:
            while restore.waiting and num_bytes < IN_FLIGHT_BYTES:
                order = restore.waiting.pop(0)
                restore.reading[order.read.path] = order.read.payload_bytes
                num_bytes += order.read.payload_bytes
                plan.restores.append(order)

    def note_read(self, outcomes: list[ReadOutcome]) -> None:
        """Take note of files that are in the pools, or cannot be."""
        for outcome in outcomes:
            self._index.note_read(outcome)
            for restore in self.active:
                if restore.reading.pop(outcome.order.path, None) is not None:
                    self._advance(restore, outcome)
        for restore in [one for one in self.active if not one.waiting and not one.reading]:
            self._end(restore)

    def void(self) -> None:
        """Let nothing of what is being restored enter the prefix tree, which is emptied."""
        for restore in self.active:
            restore.is_void = True
            restore.waiting.clear()

    def forget(self) -> None:
        """End all restores: the engine has dropped them, and all KV."""
        for restore in list(self.active):
            restore.is_void = True
            self._end(restore)

    def _seconds_to_compute(self, restore: Restore) -> float | None:
        """Return how long computing would take what is not restored yet; None where nothing is known.

        Without its state, nothing of a restore is of use.
        """
        start = restore.start if restore.state is not None else restore.end
        num_tokens = len(restore.tokens) - start
        rate = self._cost.prefill_rate(start, num_tokens)
        return num_tokens / rate if rate else None

    def _find(self, chain: Chain, known: TreePosition) -> tuple[list[ReadOrder], ReadOrder | None]:
        """Return orders for blocks after those in memory at `known`, and for the state after the last one.

        The state is None for a model without states; where neither is found, there is nothing to restore.
        """
        if not self._kv_cache.states.is_used:
            return self._index.find(chain, known.num_blocks), None
        num_resumable = known.checkpointed.num_blocks
        at_most = chain.num_blocks
        for _ in range(MAX_STATES):
            state = self._index.find_state(chain, at_most)
            if state is None or state.first_block + 1 <= num_resumable:
                break
            end = state.first_block + 1
            orders = self._index.find(chain, known.num_blocks, end) if end > known.num_blocks else []
            if known.num_blocks + sum(order.num_blocks for order in orders) >= end:
                return orders, state
            at_most = state.first_block
        return [], None

    def _begin(
        self, sequence: Sequence, orders: list[ReadOrder], state: ReadOrder | None, watermark: int
    ) -> bool:
        """Begin a restore for `sequence`; return False where it does not pay, or there is no room now."""
        known = sequence.tree_position
        assert known is not None
        if state is None:
            start, end = known.num_blocks, known.num_blocks + sum(order.num_blocks for order in orders)
        else:
            start, end = known.checkpointed.num_blocks, state.first_block + 1
            known = known.prefix(min(known.num_blocks, end))
        reads = orders + ([state] if state is not None else [])
        num_tokens = (end - start) * BLOCK_SIZE
        rate = self._cost.prefill_rate(start * BLOCK_SIZE, num_tokens)
        if not self._index.is_worth_restoring(reads, num_tokens, rate):
            sequence.is_searched = True
            return False
        held = self._kv_cache.hold(sequence, known, end - known.num_blocks, watermark)
        kept = None if state is None or held is None else self._states.take(end)
        if held is None or (state is not None and kept is None):
            self._kv_cache.allocator.release(held or [])
            return False
        waiting = [_block_order(order, held) for order in orders]
        if state is not None and kept is not None:
            waiting.append(RestoreOrder(state, (), kept.slot, kept.window))
        tokens, num_known = sequence.tokens[: end * BLOCK_SIZE], known.num_blocks
        asks = sequence.conversation
        owner = None if asks is None or asks.is_passing else asks
        pace, space = self._index.begin_restore(reads), sequence.space
        restore = Restore(tokens, held, num_known, kept, waiting, reads, owner, space, pace, num_known)
        self.active.append(restore)
        sequence.is_searched = True
        sequence.prefix_wait = restore
        logger.debug("%s waits for %d tokens from disk", sequence, num_tokens)
        return True

    def _advance(self, restore: Restore, outcome: ReadOutcome) -> None:
        """Take note of one file of `restore`. After a failure no more files are read."""
        order = outcome.order
        if outcome.problem is not None:
            restore.waiting.clear()
            return
        restore.pace.read(order.payload_bytes)
        if order.wanted.kind == "state":
            restore.is_state_ready = True
        elif restore.num_restored == order.first_block:
            restore.num_restored += order.num_blocks

    def _end(self, restore: Restore) -> None:
        """Give the prefix tree what can be used of `restore`, and release the rest."""
        self.active.remove(restore)
        position = None
        if restore.is_void:
            restore.num_restored, restore.is_state_ready = restore.num_known, False
        else:
            usable = restore.held[: restore.num_restored]
            position = self._kv_cache.tree.insert(restore.tokens, usable, None, restore.owner, restore.space)
        if restore.state is not None:
            is_whole = restore.is_state_ready and restore.num_restored == len(restore.held)
            self._states.give(restore.state, position if is_whole else None)
        self._kv_cache.allocator.release(restore.held)
        was_used = restore.is_state_ready or restore.num_restored > restore.num_known
        self._index.end_restore(restore.reads, was_used)
        restore.is_over = True


def _block_order(read: ReadOrder, held: list[int]) -> RestoreOrder:
    """Return the order that fills those of the blocks `held` that `read` wants; the file may have others."""
    wanted = held[read.first_block : read.first_block + read.num_blocks]
    num_after = read.file_blocks - read.offset - read.num_blocks
    return RestoreOrder(read, (NO_BLOCK,) * read.offset + tuple(wanted) + (NO_BLOCK,) * num_after)
