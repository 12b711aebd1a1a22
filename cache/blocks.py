"""KV blocks: which blocks are free, how many holders each has, and the slot ranges of a sequence's blocks.

This module knows neither tokens nor arrays. A block is `BLOCK_SIZE` consecutive slots of the KV pools.
"""

BLOCK_SIZE = 32
"""Slots of a block. Small enough that a prefix is shared nearly whole, large enough to keep tables short."""


class OutOfBlocks(Exception):
    """Fewer blocks are free than were asked for; nothing was allocated."""


class BlockAllocator:
    """Reference-counted blocks, handed out so that a sequence stays in a few contiguous slot ranges.

    Free blocks are kept as maximal intervals `[start, end)`. A growing sequence takes the block after its
    last one while that block is free. A new slot range starts inside the largest interval: half of the room
    that it does not need is left below it, for the sequence that grows towards it.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_free = num_blocks
        self.num_cached = 0  # held by the prefix tree alone, so evictable
        self._tree_refs = [0] * num_blocks  # holders that are the prefix tree's
        self._refs = [0] * num_blocks
        self._end_of = {0: num_blocks}  # free interval's start -> its end
        self._start_of = {num_blocks: 0}  # the same intervals, by end

    @property
    def num_held(self) -> int:
        """Blocks that some sequence holds; free + cached + held = all."""
        return self.num_blocks - self.num_free - self.num_cached

    def ref_count(self, block: int) -> int:
        """Return how many holders `block` has, the prefix tree included; 0 when it is free."""
        return self._refs[block]

    def num_unshared(self, blocks: list[int]) -> int:
        """Return how many of `blocks` have one holder."""
        refs = self._refs
        return sum([refs[block] == 1 for block in blocks])

    def allocate(self, count: int, after: int | None = None, room: int = 0) -> list[int]:
        """Take and return `count` free blocks, each with one holder.

        after: the sequence's last block; the blocks that follow it are preferred.
        room: blocks that the sequence is expected to need, as a hint for where to start a slot range.
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
        refs = self._refs  # a prefix of 60,000 tokens has 1,875 blocks: the loop is kept short
        for block in blocks:
            count = refs[block]
            assert count > 0, f"block {block} is free"
            if count == self._tree_refs[block]:
                self.num_cached -= 1
            refs[block] = count + 1

    def release(self, blocks: list[int]) -> None:
        """Drop one holder of each of `blocks`; a block without another holder becomes free."""
        refs = self._refs
        for block in blocks:
            count = refs[block] - 1
            assert count >= 0, f"block {block} is free already"
            refs[block] = count
            if count == 0:
                self._free(block)
            elif count == self._tree_refs[block]:
                self.num_cached += 1

    def enter_tree(self, block: int) -> None:
        """Add the prefix tree as a holder of `block`, which a sequence holds.

        A block of layers with a window may enter several times, once for each checkpoint that needs it.
        """
        assert self._refs[block] > 0, f"block {block} is free"
        self._refs[block] += 1
        self._tree_refs[block] += 1

    def leave_tree(self, block: int) -> None:
        """Drop the prefix tree as a holder of `block`, once."""
        assert self._tree_refs[block] > 0, f"block {block} is not in the tree"
        self._refs[block] -= 1
        self._tree_refs[block] -= 1
        if self._refs[block] == 0:
            self.num_cached -= 1
            self._free(block)

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

    __slots__ = ("_slot_ranges", "blocks")

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self._slot_ranges: list[list[int]] = []  # maximal [first, end), in token order

    def num_missing(self, num_tokens: int) -> int:
        """Return how many more blocks `num_tokens` need; negative when the table has more than they need."""
        return -(-num_tokens // BLOCK_SIZE) - len(self.blocks)

    def extend(self, blocks: list[int]) -> None:
        """Append `blocks`, in token order."""
        first, end = self._slot_ranges.pop() if self._slot_ranges else (0, 0)
        for block in blocks:
            start = block * BLOCK_SIZE
            if start != end:
                if first < end:
                    self._slot_ranges.append([first, end])
                first = start
            end = start + BLOCK_SIZE
        if first < end:
            self._slot_ranges.append([first, end])
        self.blocks += blocks

    def slot_ranges(self, num_tokens: int) -> tuple[tuple[int, int], ...]:
        """Return the slot ranges `(first, end)` of the first `num_tokens` tokens, at least one, in order."""
        slot_ranges = []
        for first, end in self._slot_ranges:
            if first + num_tokens <= end:
                slot_ranges.append((first, first + num_tokens))
                return tuple(slot_ranges)
            slot_ranges.append((first, end))
            num_tokens -= end - first
        raise AssertionError("the table is too short")

    def clear(self) -> list[int]:
        """Remove all blocks from the table and return them, for their release."""
        blocks, self.blocks, self._slot_ranges = self.blocks, [], []
        return blocks


class WindowTable(BlockTable):
    """The newest of a sequence's blocks in token order: those of layers that see a window of tokens only."""

    __slots__ = ("num_dropped",)

    def __init__(self) -> None:
        super().__init__()
        self.num_dropped = 0  # blocks of the sequence's beginning that are no longer in the table

    def num_missing(self, num_tokens: int) -> int:
        """Return how many more blocks `num_tokens` need, counted from the sequence's beginning."""
        return -(-num_tokens // BLOCK_SIZE) - len(self.blocks) - self.num_dropped

    def slot_ranges(self, num_tokens: int) -> tuple[tuple[int, int], ...]:
        """Return the slot ranges of those of the first `num_tokens` tokens whose blocks are in the table."""
        return super().slot_ranges(num_tokens - self.num_dropped * BLOCK_SIZE)

    def begin(self, num_dropped: int, blocks: list[int]) -> None:
        """Fill the empty table of a sequence whose first `num_dropped` blocks it never had."""
        self.num_dropped = num_dropped
        self.extend(blocks)

    def drop(self, num_dropped: int) -> list[int]:
        """Remove blocks until `num_dropped` of the sequence's first are gone; return those removed."""
        count = num_dropped - self.num_dropped
        if count <= 0:
            return []
        blocks, self.blocks = self.blocks[:count], self.blocks[count:]
        self.num_dropped = num_dropped
        rest = count * BLOCK_SIZE
        while rest:
            first, end = self._slot_ranges[0]
            taken = min(rest, end - first)
            rest -= taken
            if first + taken == end:
                del self._slot_ranges[0]
            else:
                self._slot_ranges[0][0] = first + taken
        return blocks

    def clear(self) -> list[int]:
        """Remove all blocks from the table and return them, as if the sequence had not begun."""
        self.num_dropped = 0
        return super().clear()
