"""KV memory as sequences use it: the blocks that they hold, and the tree of prefixes that they share.

Where a model has recurrent states too, a prefix is of use only as far as a state of it is kept.
"""

import logging

from ..cache.blocks import BLOCK_SIZE, BlockAllocator
from ..cache.radix import RadixTree
from ..cache.tree_nodes import TreePosition
from ..engine.served_model import WindowPool
from .counters import Counters
from .sequence import Sequence
from .state_manager import StateManager

logger = logging.getLogger(__name__)


class KVCacheManager:
    """Block allocator, prefix tree, and recurrent states.

    The manager evicts blocks that only the tree holds, but takes no block from a sequence: its caller decides
    which sequence is preempted.
    """

    def __init__(
        self,
        num_blocks: int,
        counters: Counters,
        num_state_slots: int = 0,
        window: WindowPool | None = None,
    ) -> None:
        self.allocator = BlockAllocator(num_blocks)
        self.states = StateManager(num_state_slots, counters, window)
        self.tree = RadixTree(self.allocator, self.states.checkpoints)
        self._counters = counters

    def num_cached_tokens(self, sequence: Sequence) -> int:
        """Return how many of the tokens of `sequence` need not be computed now, and mark their KV as used.

        `sequence` holds no blocks. The next lookup begins where this one has ended.
        """
        sequence.tree_position = self._match(sequence)
        return self.states.resumable(sequence.tree_position).num_blocks * BLOCK_SIZE

    def allocate(self, sequence: Sequence, watermark: int) -> bool:
        """Give `sequence`, which holds no blocks, its cached prefix's blocks, if the rest will fit too.

        watermark: blocks, free or evictable, that must stay available to other sequences.
        Returns False, allocating nothing, when the tokens or the sequence's states do not fit.
        """
        if not self.states.has_room(sequence) or self.is_refused(sequence, watermark):
            return False
        num_available = self._num_available(watermark)
        sequence.tree_position = known = self._match(sequence)
        resumed = self.states.resumable(known)
        cached = resumed.blocks
        # Evictable blocks of the prefix itself cannot be evicted to make room for the rest.
        num_available -= self.allocator.num_unshared(cached)
        num_missing = sequence.block_table.num_missing(len(sequence.tokens)) - len(cached)
        if num_missing > num_available:
            sequence.num_available_at_refusal = num_available
            logger.debug(
                "%s waits for memory: %d blocks missing, %d available", sequence, num_missing, num_available
            )
            return False
        self.allocator.share(cached)
        if sequence.is_wary and self._num_freeable(num_missing) < num_missing:
            self.allocator.release(cached)
            logger.debug("%s waits for memory: of what is available, too little can be freed", sequence)
            return False
        sequence.is_wary = False
        sequence.block_table.extend(cached)
        self.states.start(sequence, known, resumed)
        sequence.tree_position = resumed  # what is computed anew begins there
        sequence.num_computed_tokens = sequence.num_committed_tokens = len(cached) * BLOCK_SIZE
        sequence.num_available_at_refusal = None
        return True

    def is_refused(self, sequence: Sequence, watermark: int) -> bool:
        """Whether no more blocks are available than when `sequence` did not fit last: it need not look."""
        refused_at = sequence.num_available_at_refusal
        return refused_at is not None and self._num_available(watermark) <= refused_at

    def hold(self, sequence: Sequence, known: TreePosition, count: int, watermark: int) -> list[int] | None:
        """Hold the blocks of the cached prefix at `known`, and `count` more, which are to be filled.

        Returns them all in order; None, holding nothing, where `sequence` would not fit, see `allocate`.
        """
        cached = known.blocks
        num_missing = sequence.block_table.num_missing(len(sequence.tokens)) - len(cached)
        if num_missing > self._num_available(watermark) - self.allocator.num_unshared(cached):
            return None
        self.allocator.share(cached)
        if not self._make_free(count):
            self.allocator.release(cached)
            return None
        return cached + self.allocator.allocate(count, cached[-1] if cached else None, num_missing)

    def reserve(self, sequence: Sequence, num_tokens: int) -> bool:
        """Make sure that `sequence` has blocks for `num_tokens`, evicting cached blocks if need be.

        Returns False when other sequences hold too many blocks.
        """
        table = sequence.block_table
        missing = table.num_missing(num_tokens)
        if missing <= 0:
            return True
        if not self._make_free(missing):
            return False
        last = table.blocks[-1] if table.blocks else None
        table.extend(self.allocator.allocate(missing, last, table.num_missing(len(sequence.tokens))))
        return True

    def commit(self, sequence: Sequence, num_tokens: int) -> None:
        """Note that the KV of the first `num_tokens` tokens is written, and cache the full blocks."""
        num_full = num_tokens // BLOCK_SIZE
        if num_full > sequence.num_committed_tokens // BLOCK_SIZE:
            blocks = sequence.block_table.blocks[:num_full]
            place = sequence.tree_position, sequence.conversation, sequence.space
            sequence.tree_position = self.tree.insert(sequence.tokens, blocks, *place)
        sequence.num_committed_tokens = num_tokens
        if self.states.is_used:
            self.states.commit(sequence)

    def free(self, sequence: Sequence) -> None:
        """Free the sequence's blocks and states. What is in the prefix tree already stays cached."""
        self.states.free(sequence)
        sequence.num_computed_tokens = sequence.num_committed_tokens = 0
        sequence.tree_position = None
        self.allocator.release(sequence.block_table.clear())

    def reset_prefix_cache(self) -> None:
        """Empty the prefix tree. Blocks that sequences hold stay theirs."""
        self.tree.clear()

    def _match(self, sequence: Sequence) -> TreePosition:
        place = sequence.tree_position, sequence.conversation, sequence.space
        return self.tree.match(sequence.tokens, *place)

    def _num_available(self, watermark: int) -> int:
        return self.allocator.num_free + self.allocator.num_cached - watermark

    def _num_freeable(self, count: int) -> int:
        """Return how many blocks are free or could be evicted now, counted up to `count`.

        Fewer may be than are available: a cached block cannot be evicted before those that go on from it, and
        these may be held by a sequence that computed it a second time.
        """
        num_free = self.allocator.num_free
        return num_free + self.tree.num_evictable(count - num_free)

    def _make_free(self, count: int) -> bool:
        """Evict cached blocks until `count` are free; return whether they are."""
        num_free = self.allocator.num_free
        if num_free >= count:
            return True
        num_evicted = self.tree.evict(count - num_free)
        self._counters.evictions += num_evicted
        logger.debug(
            "%d of %d blocks are evicted: %d free before, %d after",
            num_evicted,
            count - num_free,
            num_free,
            self.allocator.num_free,
        )
        return self.allocator.num_free >= count
