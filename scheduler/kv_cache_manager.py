"""Where sequences have their KV: in blocks they hold, full ones of which the prefix tree keeps for others."""

from ..cache.blocks import BLOCK_SIZE, BlockAllocator
from ..cache.radix import RadixTree
from .counters import Counters
from .sequence import Sequence


class KVCacheManager:
    """Block allocator and prefix tree, as sequences use them.

    It evicts what nobody holds, but takes nothing from a sequence: who gives way is the caller's to say.
    """

    def __init__(self, num_blocks: int, counters: Counters) -> None:
        self._counters = counters
        self.allocator = BlockAllocator(num_blocks)
        self.tree = RadixTree(self.allocator)

    def num_matched(self, tokens: list[int]) -> int:
        """How many first tokens of `tokens` have their KV cached now."""
        return len(self.tree.match(tokens)) * BLOCK_SIZE

    def allocate(self, sequence: Sequence, num_promised: int) -> bool:
        """Give `sequence`, which holds nothing, its cached prefix, if the rest of its tokens will fit too.

        num_promised: blocks that could be had, but that others are going to need.
        """
        num_available = self.allocator.num_free + self.allocator.num_cached - num_promised
        if sequence.num_refused is not None and num_available <= sequence.num_refused:
            return False  # no better than the last time, which spares the search
        cached = self.tree.match(sequence.tokens)
        num_available -= sum(self.allocator.refs(block) == 1 for block in cached)  # not to be evicted for it
        if sequence.table.num_missing(len(sequence.tokens)) - len(cached) > num_available:
            sequence.num_refused = num_available
            return False
        self.allocator.share(cached)
        sequence.table.extend(cached)
        sequence.num_computed = sequence.num_committed = len(cached) * BLOCK_SIZE
        sequence.num_refused = None
        return True

    def reserve(self, sequence: Sequence, num_tokens: int) -> bool:
        """Make sure that `sequence` has blocks for `num_tokens`. False when others hold too many for that."""
        table = sequence.table
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
        """The KV of a sequence's first `num_tokens` tokens is written: cache the blocks that are full."""
        num_full = num_tokens // BLOCK_SIZE
        if num_full > sequence.num_committed // BLOCK_SIZE:
            blocks = sequence.table.blocks[:num_full]
            sequence.tree_position = self.tree.insert(sequence.tokens, blocks, sequence.tree_position)
        sequence.num_committed = num_tokens

    def free(self, sequence: Sequence) -> None:
        """Take all that `sequence` holds; what it settled stays cached."""
        sequence.num_computed = sequence.num_committed = 0
        sequence.tree_position = None
        self.allocator.release(sequence.table.clear())

    def reset_prefix_cache(self) -> None:
        """Forget all that is cached: some of it may be wrong, and would poison whoever shares it."""
        self.tree.clear()

    def _evict(self, count: int) -> int:
        """Free up to `count` blocks that only the prefix tree holds. Returns how many were freed."""
        num_evicted = self.tree.evict(count)
        self._counters.evictions += num_evicted
        return num_evicted
