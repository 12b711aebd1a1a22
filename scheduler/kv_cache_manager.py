"""KV memory as sequences use it: the blocks that they hold, and the tree of prefixes that they share."""

import logging

from ..cache.blocks import BLOCK_SIZE, BlockAllocator
from ..cache.radix import RadixTree
from .counters import Counters
from .sequence import Sequence

logger = logging.getLogger(__name__)


class KVCacheManager:
    """Block allocator and prefix tree.

    The manager evicts blocks that only the tree holds, but takes no block from a sequence: its caller decides
    which sequence is preempted.
    """

    def __init__(self, num_blocks: int, counters: Counters) -> None:
        self.allocator = BlockAllocator(num_blocks)
        self.tree = RadixTree(self.allocator)
        self._counters = counters

    def num_cached_tokens(self, sequence: Sequence) -> int:
        """Return how many of the tokens of `sequence` have their KV cached now, and mark it as used.

        `sequence` holds no blocks. The next lookup begins where this one has ended.
        """
        sequence.tree_position = self.tree.match(sequence.tokens, sequence.tree_position)
        return sequence.tree_position.num_blocks * BLOCK_SIZE

    def allocate(self, sequence: Sequence, watermark: int) -> bool:
        """Give `sequence`, which holds no blocks, its cached prefix's blocks, if the rest will fit too.

        watermark: blocks, free or evictable, that must stay available to other sequences.
        Returns False, allocating nothing, when the tokens do not fit.
        """
        num_available = self.allocator.num_free + self.allocator.num_cached - watermark
        refused_at = sequence.num_available_at_refusal
        if refused_at is not None and num_available <= refused_at:
            return False  # without a lookup: no more blocks are available than at the last refusal
        sequence.tree_position = self.tree.match(sequence.tokens, sequence.tree_position)
        cached = sequence.tree_position.blocks
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
        sequence.block_table.extend(cached)
        sequence.num_computed_tokens = sequence.num_committed_tokens = len(cached) * BLOCK_SIZE
        sequence.num_available_at_refusal = None
        return True

    def reserve(self, sequence: Sequence, num_tokens: int) -> bool:
        """Make sure that `sequence` has blocks for `num_tokens`, evicting cached blocks if need be.

        Returns False when other sequences hold too many blocks.
        """
        table = sequence.block_table
        missing = table.num_missing(num_tokens)
        if missing <= 0:
            return True
        shortage = missing - self.allocator.num_free
        if shortage > 0 and self._evict(shortage) < shortage:
            return False
        last = table.blocks[-1] if table.blocks else None
        table.extend(self.allocator.allocate(missing, last, table.num_missing(len(sequence.tokens))))
        return True

    def commit(self, sequence: Sequence, num_tokens: int) -> None:
        """Note that the KV of the first `num_tokens` tokens is written, and cache the full blocks."""
        num_full = num_tokens // BLOCK_SIZE
        if num_full > sequence.num_committed_tokens // BLOCK_SIZE:
            blocks = sequence.block_table.blocks[:num_full]
            sequence.tree_position = self.tree.insert(sequence.tokens, blocks, sequence.tree_position)
        sequence.num_committed_tokens = num_tokens

    def free(self, sequence: Sequence) -> None:
        """Free the sequence's blocks. Blocks already in the prefix tree stay cached."""
        sequence.num_computed_tokens = sequence.num_committed_tokens = 0
        sequence.tree_position = None
        self.allocator.release(sequence.block_table.clear())

    def reset_prefix_cache(self) -> None:
        """Empty the prefix tree. Blocks that sequences hold stay theirs."""
        self.tree.clear()

    def _evict(self, count: int) -> int:
        """Free up to `count` blocks that only the prefix tree holds. Returns how many were freed."""
        num_free = self.allocator.num_free
        num_evicted = self.tree.evict(count)
        self._counters.evictions += num_evicted
        logger.debug(
            "%d of %d blocks are evicted: %d free before, %d after",
            num_evicted,
            count,
            num_free,
            self.allocator.num_free,
        )
        return num_evicted
