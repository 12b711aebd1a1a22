"""A decode batch's tables for the kernels: blocks, splits, and which partials a row sums. NumPy only.

    row's tokens:  |--- shared with other rows ---|--- the row's alone ---|newest|
    read by:         matmuls, once for all rows     the kernels, in splits

A row's tokens are cut into splits (as in flash-decoding), so that every part of the device has work however
uneven the rows are. A partial is the softmax over one split or one shared tile; a row's partials are summed.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ....cache.blocks import BLOCK_SIZE
from ....cache.kv import MIN_KERNEL_ELEMENTS
from ...step import SlotRange
from ..shared_prefixes import SharedPrefix

Ints = npt.NDArray[np.int32]

TARGET_GROUPS = 4096
"""Thread groups that a launch of `split` aims at: several times as many as a large GPU runs at once."""

MIN_SPLIT = 320
"""Fewest tokens of a full split: starting a thread group and summing its partial cost time as well. Best of
64 to 512 for one row of 20k on an H200."""

SHARED_TILE = 16384
"""Most slots of a shared tile: its scores take memory."""

SHARED_ROWS = 3
SHARED_SLOTS = 16384
"""A slot range is read with matmuls where its slots times the rows beyond SHARED_ROWS reach SHARED_SLOTS.
Matmuls read at about a third of the kernel's speed and cost some launches (16 rows x 16k, H200: 0.08 ms)."""


class SplitColumn(IntEnum):
    """Columns of `splits`; the kernels call them SPLIT_ROW and so on."""

    ROW = 0
    FIRST = 1  # the split's first token
    END = 2  # the token after its last one
    NEWEST = 3  # the row's newest token, whose KV the kernel stores


class PartialColumn(IntEnum):
    """Columns of `row_partials`; the kernels call them PARTIAL_FIRST_SPLIT and so on."""

    FIRST_SPLIT = 0
    END_SPLIT = 1  # the split after the row's last one
    SHARED = 2  # and all columns from here on: indices into the partials of the shared tiles, -1 for none


MIN_SPLITS = MIN_KERNEL_ELEMENTS // len(SplitColumn)
MIN_PARTIAL_ROWS = MIN_KERNEL_ELEMENTS // PartialColumn.SHARED


class LayerKind(NamedTuple):
    """The properties of a layer that its tables depend on; layers of one kind share tables."""

    num_groups: int  # thread groups for each split
    window: int | None = None  # tokens that a row sees, its newest included; None for all


class SharedTile(NamedTuple):
    """A slot range that is read once for several rows, each of which needs all of it."""

    rows: tuple[int, ...]
    slot_range: SlotRange


class SharedTileLayout(NamedTuple):
    """The part of a shared tile that is constant in a compiled graph."""

    num_rows: int | None  # None for all rows of the batch
    slot_range: SlotRange


@dataclass(frozen=True, slots=True)
class Layout:
    """The shapes of a batch's tables, rounded up, so that a graph made for one batch fits the next."""

    num_rows: int
    num_blocks: int  # columns of the block table
    num_splits: int
    num_shared: int  # columns of `row_partials` for shared partials
    shared: tuple[SharedTileLayout, ...]

    def holds(self, other: "Layout") -> bool:
        """Whether the tables of a batch of layout `other` can be padded to this layout."""
        mine, others = ((a.num_rows, a.num_blocks, a.num_splits, a.num_shared) for a in (self, other))
        return self.shared == other.shared and all(a >= b for a, b in zip(mine, others, strict=True))


@dataclass(frozen=True, slots=True)
class DecodeTables:
    """The tables of one decode batch for the layers of one kind."""

    block_table: Ints  # (rows, blocks) block ids, rows padded with 0
    splits: Ints  # (n, SplitColumn), n >= MIN_SPLITS; padded with empty splits
    row_partials: Ints  # (max(rows, MIN_PARTIAL_ROWS), PartialColumn.SHARED + k)
    shared: tuple[SharedTile, ...]

    @property
    def layout(self) -> Layout:
        """The tables' shapes."""
        num_rows, num_blocks = self.block_table.shape
        shared = tuple(SharedTileLayout(self._num_rows(tile), tile.slot_range) for tile in self.shared)
        num_shared = self.row_partials.shape[1] - PartialColumn.SHARED
        return Layout(num_rows, num_blocks, len(self.splits), num_shared, shared)

    @property
    def flat(self) -> Ints:
        """All numbers: table after table, then the rows of each shared tile that not all rows read."""
        tables = [self.block_table, self.splits, self.row_partials]
        rows = [np.array(tile.rows, np.int32) for tile in self.shared if self._num_rows(tile) is not None]
        return np.concatenate([*(table.ravel() for table in tables), *rows])

    def enlarged(self, layout: Layout) -> "DecodeTables":
        """Return the same tables, padded to `layout`, which holds their own and has as many rows."""
        more_blocks = ((0, 0), (0, layout.num_blocks - self.block_table.shape[1]))
        more_shared = ((0, 0), (0, PartialColumn.SHARED + layout.num_shared - self.row_partials.shape[1]))
        return DecodeTables(
            block_table=np.pad(self.block_table, more_blocks),
            splits=_pad(self.splits, layout.num_splits),
            row_partials=np.pad(self.row_partials, more_shared, constant_values=-1),
            shared=self.shared,
        )

    def _num_rows(self, tile: SharedTile) -> int | None:
        """Return how many rows read `tile`, None for all rows of the batch."""
        return None if len(tile.rows) == len(self.block_table) else len(tile.rows)


def make_tables(
    slot_ranges: list[tuple[SlotRange, ...]],
    prefixes: list[SharedPrefix],
    kind: LayerKind,
    num_rows: int | None = None,
) -> DecodeTables:
    """Lay out a decode batch for a kind of layers.

    slot_ranges: each row's slots in token order; each range begins with a block.
    prefixes: the same slots, as `shared_prefixes` returns them.
    num_rows: rows of the tables; those after the batch's own rows are padding. None for no padding.
    The tables' sizes are rounded up, so that few layouts occur.
    """
    num_rows = len(slot_ranges) if num_rows is None else num_rows
    lengths = [sum(end - first for first, end in row) for row in slot_ranges]
    if kind.window is None:
        shared, unshared = _share(lengths, prefixes, num_rows)
    else:
        shared, unshared = (), [[(max(0, length - kind.window), length)] for length in lengths]
    splits, counts = _split(lengths, unshared, kind.num_groups)
    ends = np.cumsum(counts)
    own = np.stack([ends - counts, ends], axis=1)  # FIRST_SPLIT, END_SPLIT
    row_partials = np.concatenate([_pad(own, num_rows), _shared_columns(num_rows, shared)], axis=1)
    return DecodeTables(
        block_table=_pad(make_block_table(slot_ranges), num_rows),
        splits=_pad(splits, round_up(max(len(splits), MIN_SPLITS), 8)),
        row_partials=_pad(row_partials, max(num_rows, MIN_PARTIAL_ROWS)).astype(np.int32),
        shared=shared,
    )


def _pad(rows: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Append rows of zeros until there are `count`."""
    padded = np.zeros((count, rows.shape[1]), rows.dtype)  # np.pad takes ten times as long
    padded[: len(rows)] = rows
    return padded


def round_up(number: int, steps: int) -> int:
    """Round up to a power of two, or to one of the `steps` - 1 evenly spaced numbers between two of them.

    steps: a power of two. For 2 steps: 1, 2, 3, 4, 6, 8, 12, 16, 24, ...
    """
    step = 1 << max(0, (number - 1).bit_length() - steps.bit_length())
    return -(-number // step) * step


def make_block_table(slot_ranges: list[tuple[SlotRange, ...]]) -> Ints:
    """Return each row's blocks in token order, padded with 0: (rows, n), n a power of two, at least 64."""
    flat = np.array([(row, first, end) for row, ranges in enumerate(slot_ranges) for first, end in ranges])
    row, first, end = flat.T
    first_block = first // BLOCK_SIZE
    counts = -(-end // BLOCK_SIZE) - first_block
    starts = np.cumsum(counts) - counts
    blocks = np.arange(counts.sum(), dtype=np.int32)
    blocks += np.repeat((first_block - starts).astype(np.int32), counts)
    of_rows = np.split(blocks, np.cumsum(np.bincount(row, counts))[:-1].astype(int))
    most = max(map(len, of_rows))
    table = np.zeros((len(slot_ranges), 64 * round_up(-(-most // 64), 1)), np.int32)
    for padded, own in zip(table, of_rows, strict=True):
        padded[: len(own)] = own
    return table


def _split(
    lengths: list[int], unshared: list[list[SlotRange]], num_groups: int
) -> tuple[Ints, npt.NDArray[np.int64]]:
    """Cut the rows' unshared stretches of tokens into splits; return them and how many each row has."""
    flat = np.array([(row, first, end) for row, stretches in enumerate(unshared) for first, end in stretches])
    row, first, end = flat.T
    size = max(MIN_SPLIT, -(-(int((end - first).sum()) * num_groups) // TARGET_GROUPS // 64) * 64)
    owner, offset = _expand(-(-(end - first) // size))
    splits = np.empty((len(owner), len(SplitColumn)), np.int32)
    splits[:, SplitColumn.ROW] = row[owner]
    splits[:, SplitColumn.FIRST] = start = first[owner] + offset * size
    splits[:, SplitColumn.END] = np.minimum(start + size, end[owner])
    splits[:, SplitColumn.NEWEST] = np.array(lengths)[row[owner]] - 1
    return splits, np.bincount(row[owner], minlength=len(lengths))


def _expand(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return, for counts [2, 1, 3], owners [0, 0, 1, 2, 2, 2] and numbers in owners [0, 1, 0, 0, 1, 2]."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def _share(
    lengths: list[int], prefixes: list[SharedPrefix], num_rows: int
) -> tuple[tuple[SharedTile, ...], list[list[SlotRange]]]:
    """Divide the rows' tokens into shared tiles, of slots, and each row's unshared stretches, of tokens."""
    shared: list[SharedTile] = []
    unshared: list[list[SlotRange]] = [[] for _ in lengths]
    num_divided = [0] * len(lengths)
    for prefix in prefixes:
        for first, end in prefix.slot_ranges:
            is_shared = (len(prefix.rows) - SHARED_ROWS) * (end - first) >= SHARED_SLOTS
            if is_shared:
                starts = range(first, end, SHARED_TILE)
                rows = tuple(range(num_rows)) if len(prefix.rows) == len(lengths) else prefix.rows
                shared += [SharedTile(rows, (start, min(end, start + SHARED_TILE))) for start in starts]
            for row in prefix.rows:
                if not is_shared:
                    _add(unshared[row], num_divided[row], num_divided[row] + end - first)
                num_divided[row] += end - first
    assert num_divided == lengths
    return tuple(shared), unshared


def _add(stretches: list[SlotRange], first: int, end: int) -> None:
    """Append a stretch of tokens, or lengthen the last one."""
    if stretches and stretches[-1][1] == first:
        first, _ = stretches.pop()
    stretches.append((first, end))


def _shared_columns(num_rows: int, shared: tuple[SharedTile, ...]) -> npt.NDArray[np.int64]:
    """Return (rows, k): indices of each row's shared partials, numbered tile after tile; then -1."""
    found: list[list[int]] = [[] for _ in range(num_rows)]
    index = 0
    for tile in shared:
        for row in tile.rows:
            found[row].append(index)
            index += 1
    width = -(-max(map(len, found)) // 4) * 4
    padded = [row + [-1] * (width - len(row)) for row in found]
    return np.array(padded, np.int64).reshape(num_rows, width)
