"""KV of layers that see a window of tokens only: of each running sequence the newest tokens.

Such layers have pools, blocks and a block table of their own. As a sequence goes on, the blocks that its
window has passed are freed, unless a checkpoint of the prefix tree needs them: prompts branch off there.
Sources of the idea: vLLM's hybrid KV cache manager (groups of layers with a block table each) and SGLang's
radix cache for sliding windows; here the places are those of recurrent states' checkpoints.

Each running sequence is promised the blocks of its window, and each step those of its slices. A sequence
starts only when its promise can be kept beside all others: nobody is preempted for the sake of a window.
"""

from ..cache.blocks import BLOCK_SIZE, BlockAllocator
from ..engine.served_model import WindowPool
from .sequence import Sequence


class WindowManager:
    """The blocks of windows. Without a pool for them it has none and does nothing."""

    def __init__(self, pool: WindowPool | None) -> None:
        self.is_used = pool is not None
        self._pool = pool or WindowPool(size=1, num_blocks=0, slice_tokens=0)
        assert pool is None or pool.promised_blocks <= pool.num_blocks, "promises could not be kept"
        self.allocator = BlockAllocator(self._pool.num_blocks)

    @property
    def num_kept(self) -> int:
        """Most blocks that a checkpoint holds."""
        return self._pool.state_blocks if self.is_used else 0

    def has_room(self, num_sequences: int) -> bool:
        """Whether `num_sequences` can be promised their windows."""
        return not self.is_used or num_sequences <= self._pool.max_running

    def start(self, sequence: Sequence, num_tokens: int, blocks: list[int]) -> None:
        """Give `sequence`, which holds no window, that of a checkpoint after `num_tokens`: `blocks`."""
        self.allocator.share(blocks)
        sequence.window_table.begin(num_tokens // BLOCK_SIZE - len(blocks), blocks)

    def lacks_blocks(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether too few blocks are free for the window of `sequence` up to `num_tokens`."""
        return sequence.window_table.num_missing(num_tokens) > self.allocator.num_free

    def extend(self, sequence: Sequence, num_tokens: int) -> None:
        """Give `sequence` the blocks that it lacks for its window up to `num_tokens`; they are free."""
        table = sequence.window_table
        missing = table.num_missing(num_tokens)
        if missing > 0:
            last = table.blocks[-1] if table.blocks else None
            table.extend(self.allocator.allocate(missing, last, self._pool.sequence_blocks))

    def hold(self, sequence: Sequence, num_tokens: int) -> tuple[int, ...]:
        """Hold the blocks that a token after the first `num_tokens`, full blocks, sees; return them."""
        if not self.is_used:
            return ()
        table, end = sequence.window_table, num_tokens // BLOCK_SIZE
        first = max(0, end - self._pool.state_blocks)
        blocks = table.blocks[first - table.num_dropped : end - table.num_dropped]
        self.allocator.share(blocks)
        return tuple(blocks)

    def release_passed(self, sequence: Sequence) -> None:
        """Free the blocks of `sequence` that none of its tokens to come will see.

        After a refused sample the last known token is fed again.
        """
        next_token, table = min(sequence.num_computed_tokens, len(sequence.tokens) - 1), sequence.window_table
        num_passed = (next_token - self._pool.size + 1) // BLOCK_SIZE
        if num_passed > table.num_dropped:
            self.allocator.release(table.drop(num_passed))

    def free(self, sequence: Sequence) -> None:
        """Free the window of `sequence`."""
        self.allocator.release(sequence.window_table.clear())
