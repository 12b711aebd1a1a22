"""KV blocks: which are free, who holds the others, and the runs of slots that a sequence's blocks form.

Knows nothing of tokens or arrays. A block is `block_size` consecutive slots of the KV pools.
"""

BLOCK_SIZE = 32
"""Tokens a block. Small enough that a prefix is shared nearly whole, large enough to keep tables short."""


class OutOfBlocks(Exception):
    """Fewer blocks are free than were asked for; nothing was allocated."""


class BlockAllocator:
    """Reference-counted blocks, handed out so that a sequence stays a few contiguous runs.

    Free blocks are kept as maximal intervals `[start, end)`. A growing sequence takes the block after its
    last one while that is free; a new run starts inside the largest interval, leaving half of the spare
    room to whoever grows up to it from below.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_free = num_blocks
        self.num_cached = 0  # held by the prefix tree alone
        self._in_tree = bytearray(num_blocks)
        self._refs = [0] * num_blocks
        self._end_of = {0: num_blocks}  # free interval's start -> its end
        self._start_of = {num_blocks: 0}  # the same intervals, by end

    @property
    def num_held(self) -> int:
        """Blocks that some sequence holds; free + cached + held = all."""
        return self.num_blocks - self.num_free - self.num_cached

    def ref_count(self, block: int) -> int:
        """How many holders `block` has, the prefix tree included; 0 when it is free."""
        return self._refs[block]

    def allocate(self, count: int, after: int | None = None, room: int = 0) -> list[int]:
        """Take `count` free blocks, each with one reference.

        after: the sequence's last block; its successors are preferred.
        room: blocks that the sequence is expected to need in all, as a hint for where to start a run.
        Raises OutOfBlocks, changing nothing, when fewer than `count` are free.
        """
        if count > self.num_free:
            raise OutOfBlocks(f"{count} blocks asked for, {self.num_free} free")
        blocks: list[int] = []
        while len(blocks) < count:
            start = self._pick(after, max(room, count) - len(blocks))
            taken = self._take(start, count - len(blocks))
            blocks += taken
            after = taken[-1]
        return blocks

    def share(self, blocks: list[int]) -> None:
        """Add one holder to each of `blocks`, none of which may be free."""
        for block in blocks:
            assert self._refs[block] > 0, f"block {block} is free"
            self.num_cached -= self._in_tree[block] and self._refs[block] == 1
            self._refs[block] += 1

    def release(self, blocks: list[int]) -> None:
        """Drop one holder of each of `blocks`; those without another become free."""
        for block in blocks:
            assert self._refs[block] > 0, f"block {block} is free already"
            self._refs[block] -= 1
            if self._refs[block] == 0:
                self._free(block)
            else:
                self.num_cached += self._in_tree[block] and self._refs[block] == 1

    def enter_tree(self, block: int) -> None:
        """Add the prefix tree as a holder of `block`, which a sequence holds."""
        assert not self._in_tree[block], f"block {block} is in the tree already"
        self.share([block])
        self._in_tree[block] = True

    def leave_tree(self, block: int) -> None:
        """Drop the prefix tree as a holder of `block`."""
        self.num_cached -= self._refs[block] == 1
        self._in_tree[block] = False
        self.release([block])

    def _pick(self, after: int | None, room: int) -> int:
        if after is not None and after + 1 < self.num_blocks and self._refs[after + 1] == 0:
            return after + 1
        start, end = max(self._end_of.items(), key=lambda interval: interval[1] - interval[0])
        return start if start == 0 else start + max(0, end - start - room) // 2

    def _take(self, first: int, count: int) -> list[int]:
        """Take up to `count` blocks upwards from the free block `first`."""
        start = first if first in self._end_of else max(s for s in self._end_of if s <= first)
        end = self._end_of.pop(start)
        del self._start_of[end]
        last = min(end, first + count)
        self._add_interval(start, first)
        self._add_interval(last, end)
        self.num_free -= last - first
        for block in range(first, last):
            self._refs[block] = 1
        return list(range(first, last))

    def _free(self, block: int) -> None:
        start, end = block, block + 1
        if start in self._start_of:
            start = self._start_of.pop(start)
            del self._end_of[start]
        if end in self._end_of:
            end = self._end_of.pop(end)
            del self._start_of[end]
        self._add_interval(start, end)
        self.num_free += 1

    def _add_interval(self, start: int, end: int) -> None:
        if start < end:
            self._end_of[start] = end
            self._start_of[end] = start


class BlockTable:
    """A sequence's blocks in token order."""

    __slots__ = ("_runs", "blocks")

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self._runs: list[list[int]] = []  # maximal [first, end) ranges of slots, in token order

    @property
    def num_slots(self) -> int:
        """Tokens that fit into the blocks held."""
        return len(self.blocks) * BLOCK_SIZE

    def num_missing(self, num_tokens: int) -> int:
        """Blocks to be added before `num_tokens` fit; negative where there are more than it takes."""
        return -(-num_tokens // BLOCK_SIZE) - len(self.blocks)

    def extend(self, blocks: list[int]) -> None:
        """Append `blocks`, in token order."""
        for block in blocks:
            first = block * BLOCK_SIZE
            if self._runs and self._runs[-1][1] == first:
                self._runs[-1][1] += BLOCK_SIZE
            else:
                self._runs.append([first, first + BLOCK_SIZE])
        self.blocks += blocks

    def slot_ranges(self, num_tokens: int) -> tuple[tuple[int, int], ...]:
        """The slots of the first `num_tokens` tokens, at least one, in order, as ranges `(first, end)`."""
        slot_ranges = []
        for first, end in self._runs:
            if first + num_tokens <= end:
                slot_ranges.append((first, first + num_tokens))
                return tuple(slot_ranges)
            slot_ranges.append((first, end))
            num_tokens -= end - first
        raise AssertionError("the table is too short")

    def clear(self) -> list[int]:
        """Forget all blocks and return them, for their release."""
        blocks, self.blocks, self._runs = self.blocks, [], []
        return blocks
