"""What the decode kernels are told of a batch: block tables, items of work, ranges. NumPy only.

    row's tokens:  |--- shared with other rows ---|------ its own ------|newest|
    read by:        matmuls, once for all rows     items of the kernel

A row's tokens are cut into items, so that every part of the device has work however uneven the rows are.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ....cache.blocks import BLOCK_SIZE
from ...step import SlotRange
from ..shared_prefixes import SharedPrefix

Ints = npt.NDArray[np.int32]

LayerKind = tuple[int, int | None]
"""Layers that can share tables: how many thread groups an item takes, and the window, None for none."""

TARGET_GROUPS = 4096
"""Thread groups that a pass aims at: several for each place on a large GPU, so that they end together."""

MIN_SPLIT = 320
"""Tokens of an item, at least: starting a group and joining its part cost time as well. Best of 64 to
512 for one row of 20k on an H200."""

SHARED_TILE = 16384
"""Slots of a shared read at most; its scores take memory."""

SHARED_ROWS = 3
SHARED_SLOTS = 16384
"""A stretch is read with matmuls where its slots times the rows beyond SHARED_ROWS reach SHARED_SLOTS. They
read at about a third of the kernel's speed and cost a few launches (16 rows x 16k on an H200: 0.08 ms)."""


@dataclass(frozen=True, slots=True)
class SharedTile:
    """A run of slots that several rows read together, every one of them all of it."""

    rows: tuple[int, ...]
    run: SlotRange


@dataclass(frozen=True, slots=True)
class Layout:
    """The shapes of a batch's tables, coarse, so that a graph made for one batch fits the next.

    shared: for each shared read how many rows it is for, None for all, and the run.
    """

    num_rows: int
    num_columns: int
    num_splits: int
    num_picks: int
    shared: tuple[tuple[int | None, SlotRange], ...]

    def holds(self, other: "Layout") -> bool:
        """Whether a batch of the other layout can be padded to this one."""
        mine, others = ((a.num_rows, a.num_columns, a.num_splits, a.num_picks) for a in (self, other))
        return self.shared == other.shared and all(a >= b for a, b in zip(mine, others, strict=True))


@dataclass(frozen=True, slots=True)
class DecodeTables:
    """One batch, as the kernels take it."""

    table: Ints  # (rows, blocks) block ids, rows padded with 0
    items: Ints  # (n, 4): row, first token, end, the row's newest token; padded with empty ones
    ranges: Ints  # (rows, 2 + k): first item, end, then indices into the shared reads' rows, padded with -1
    shared: tuple[SharedTile, ...]

    @property
    def layout(self) -> Layout:
        """Their shapes."""
        num_rows, num_columns = self.table.shape
        shared = tuple((self._count(read), read.run) for read in self.shared)
        return Layout(num_rows, num_columns, len(self.items), self.ranges.shape[1] - 2, shared)

    @property
    def flat(self) -> Ints:
        """All numbers, one table after the other, then the rows of the shared reads that are not for all."""
        some = [np.array(read.rows, np.int32) for read in self.shared if self._count(read) is not None]
        return np.concatenate([self.table.ravel(), self.items.ravel(), self.ranges.ravel(), *some])

    def enlarged(self, layout: Layout) -> "DecodeTables":
        """The same with more padding, for a layout that holds theirs and has as many rows."""
        columns = ((0, 0), (0, layout.num_columns - self.table.shape[1]))
        picks = ((0, 0), (0, layout.num_picks + 2 - self.ranges.shape[1]))
        return DecodeTables(
            table=np.pad(self.table, columns),
            items=_pad(self.items, layout.num_splits),
            ranges=np.pad(self.ranges, picks, constant_values=-1),
            shared=self.shared,
        )

    def _count(self, read: SharedTile) -> int | None:
        return None if len(read.rows) == len(self.table) else len(read.rows)


def make_tables(
    slot_ranges: list[tuple[SlotRange, ...]],
    reads: list[SharedPrefix],
    num_groups: int,
    window: int | None = None,
    num_rows: int | None = None,
) -> DecodeTables:
    """Lay out a decode batch.

    slot_ranges: each row's slots in token order; each range begins with a block.
    reads: the same slots, as `shared_prefixes` returns them.
    num_groups: thread groups that one item takes. window: tokens that a row sees, its newest included.
    num_rows: rows of the batch, if some that nobody reads follow those with runs.
    The tables' sizes are rounded up, so that few layouts occur.
    """
    num_rows = len(slot_ranges) if num_rows is None else num_rows
    lengths = [sum(end - first for first, end in row) for row in slot_ranges]
    if window is None:
        shared, stretches = _share(lengths, reads, num_rows)
    else:
        shared, stretches = (), [[(max(0, length - window), length)] for length in lengths]
    items, counts = _items(lengths, stretches, num_groups)
    ends = np.cumsum(counts)
    ranges = np.stack([ends - counts, ends], axis=1)
    return DecodeTables(
        table=_pad(block_table(slot_ranges), num_rows),
        items=_pad(items, round_up(len(items), 8)),
        ranges=np.concatenate([_pad(ranges, num_rows), _picks(num_rows, shared)], axis=1).astype(np.int32),
        shared=shared,
    )


def _pad(rows: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Append rows of zeros."""
    return np.pad(rows, ((0, count - len(rows)), (0, 0)))


def round_up(number: int, steps: int) -> int:
    """The next of a row of numbers that has `steps` (a power of two) between a power of two and the next."""
    step = 1 << max(0, (number - 1).bit_length() - steps.bit_length())
    return -(-number // step) * step


def block_table(slot_ranges: list[tuple[SlotRange, ...]]) -> Ints:
    """(rows, blocks): each row's blocks in token order, padded with 0; a power of two columns, 64 or more."""
    flat = np.array([(row, first, end) for row, mine in enumerate(slot_ranges) for first, end in mine])
    row, first, end = flat.T
    first_block = first // BLOCK_SIZE
    owner, offset = _expand(-(-end // BLOCK_SIZE) - first_block)
    num_blocks = np.bincount(row[owner], minlength=len(slot_ranges))
    column = np.arange(len(owner)) - np.repeat(np.cumsum(num_blocks) - num_blocks, num_blocks)
    table = np.zeros((len(slot_ranges), 64 * round_up(-(-int(num_blocks.max()) // 64), 1)), np.int32)
    table[row[owner], column] = first_block[owner] + offset
    return table


def _items(
    lengths: list[int], stretches: list[list[SlotRange]], num_groups: int
) -> tuple[Ints, npt.NDArray[np.int64]]:
    """Cut the rows' own stretches into items; returns them and how many each row has."""
    flat = np.array([(row, first, end) for row, mine in enumerate(stretches) for first, end in mine])
    row, first, end = flat.T
    size = max(MIN_SPLIT, -(-(int((end - first).sum()) * num_groups) // TARGET_GROUPS // 64) * 64)
    owner, offset = _expand(-(-(end - first) // size))
    start = first[owner] + offset * size
    newest = np.array(lengths)[row[owner]] - 1
    items = np.stack([row[owner], start, np.minimum(start + size, end[owner]), newest], axis=1)
    return items.astype(np.int32), np.bincount(row[owner], minlength=len(lengths))


def _expand(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For [2, 1, 3]: owners [0, 0, 1, 2, 2, 2], and each one's number with its owner [0, 1, 0, 0, 1, 2]."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def _share(
    lengths: list[int], reads: list[SharedPrefix], num_rows: int
) -> tuple[tuple[SharedTile, ...], list[list[SlotRange]]]:
    """Divide the rows' tokens into shared reads and each row's own stretches of tokens."""
    shared: list[SharedTile] = []
    own: list[list[SlotRange]] = [[] for _ in lengths]
    done = [0] * len(lengths)
    for segment in reads:
        for first, end in segment.slot_ranges:
            is_shared = (len(segment.rows) - SHARED_ROWS) * (end - first) >= SHARED_SLOTS
            if is_shared:
                tiles = range(first, end, SHARED_TILE)
                rows = tuple(range(num_rows)) if len(segment.rows) == len(lengths) else segment.rows
                shared += [SharedTile(rows, (at, min(end, at + SHARED_TILE))) for at in tiles]
            for row in segment.rows:
                if not is_shared:
                    _add(own[row], done[row], done[row] + end - first)
                done[row] += end - first
    assert done == lengths
    return tuple(shared), own


def _add(stretches: list[SlotRange], first: int, end: int) -> None:
    """Append a stretch of tokens, or lengthen the last one."""
    if stretches and stretches[-1][1] == first:
        first, _ = stretches.pop()
    stretches.append((first, end))


def _picks(num_rows: int, shared: tuple[SharedTile, ...]) -> npt.NDArray[np.int64]:
    """(rows, k): where each row stands among the rows of all shared reads, one after the other."""
    found: list[list[int]] = [[] for _ in range(num_rows)]
    index = 0
    for read in shared:
        for row in read.rows:
            found[row].append(index)
            index += 1
    width = -(-max(map(len, found)) // 4) * 4
    padded = [row + [-1] * (width - len(row)) for row in found]
    return np.array(padded, np.int64).reshape(num_rows, width)
