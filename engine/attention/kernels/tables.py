"""The tables by which the kernels find blocks, splits, tiles and partials. NumPy only.

    a row's tokens:  |--- shared with other rows ---|--- the row's alone ---|newest|
    read in:           tiles, once for all rows        splits, row by row

A split is a stretch of one row's tokens (as in flash-decoding); a tile is a stretch of tokens with all
queries that read it (`tiles.py`). A partial is the softmax of one query over one split or tile; a query's
partials are summed.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ....cache.blocks import BLOCK_SIZE
from ....cache.kv import MIN_KERNEL_ELEMENTS
from ...step import SlotRange

Ints = npt.NDArray[np.int32]


class SplitColumn(IntEnum):
    """Columns of `splits`; the kernels call them SPLIT_ROW and so on."""

    ROW = 0
    FIRST = 1  # the split's first token
    END = 2  # the token after its last one
    NEWEST = 3  # the row's newest token, whose KV the kernel stores


class TileColumn(IntEnum):
    """Columns of `tiles` before the queries; the kernels call them TILE_ROW and so on."""

    ROW = 0  # of the block table
    FIRST = 1  # the tile's first token
    END = 2  # the token after its last one
    COUNT = 3  # how many queries the tile has


class PartialColumn(IntEnum):
    """Columns of `query_partials`; the kernels call them PARTIAL_FIRST_SPLIT and so on."""

    FIRST_SPLIT = 0
    END_SPLIT = 1  # the split after the query's last one
    TILES = 2  # and all columns from here on: numbers of partials of tiles, -1 for none


MIN_SPLITS = MIN_KERNEL_ELEMENTS // len(SplitColumn)
MIN_PARTIAL_ROWS = MIN_KERNEL_ELEMENTS // PartialColumn.TILES


class LayerKind(NamedTuple):
    """The properties of a layer that its tables depend on; layers of one kind share tables."""

    tile_groups: int  # thread groups for each tile
    num_groups: int  # thread groups for each split
    tile_queries: int  # queries of a tile; 0 where the kernels cannot compute tiles
    window: int | None = None  # tokens that a query sees, itself included; None for all
    splits_are_tiles: bool = False  # whether the kernel of tiles reads splits as well, as tiles of one row

    @property
    def tile_columns(self) -> int:
        """Columns of `tiles`."""
        return len(TileColumn) + 2 * self.tile_queries

    @property
    def split_columns(self) -> int:
        """Columns of `splits`."""
        return len(TileColumn) + 2 if self.splits_are_tiles else len(SplitColumn)


@dataclass(frozen=True, slots=True)
class Layout:
    """The shapes of tables, rounded up, so that a graph made for one batch fits the next."""

    num_queries: int
    num_rows: int  # of the block table
    num_blocks: int  # columns of the block table
    num_splits: int
    num_tiles: int
    num_tile_partials: int  # columns of `query_partials` for partials of tiles

    def holds(self, other: "Layout") -> bool:
        """Whether the tables of a batch of layout `other` can be padded to this layout."""
        sizes = [
            (getattr(self, name), getattr(other, name)) for name in ("num_queries", "num_rows", "num_blocks")
        ]
        sizes += [(self.num_splits, other.num_splits), (self.num_tiles, other.num_tiles)]
        sizes += [(self.num_tile_partials, other.num_tile_partials)]
        return all(a >= b and (b > 0 or a == 0) for a, b in sizes)


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of one forward pass for the layers of one kind."""

    block_table: Ints  # (rows, blocks) block ids, rows padded with 0
    splits: Ints  # (n, split_columns of the kind), n = 0 or n >= MIN_SPLITS; padded with empty splits
    tiles: Ints  # (n, tile_columns of the kind); padded with empty tiles
    query_partials: Ints  # (max(queries, MIN_PARTIAL_ROWS), PartialColumn.TILES + k)
    num_queries: int

    @property
    def layout(self) -> Layout:
        """The tables' shapes."""
        num_rows, num_blocks = self.block_table.shape
        return Layout(
            num_queries=self.num_queries,
            num_rows=num_rows,
            num_blocks=num_blocks,
            num_splits=len(self.splits),
            num_tiles=len(self.tiles),
            num_tile_partials=self.query_partials.shape[1] - PartialColumn.TILES,
        )

    @property
    def flat(self) -> Ints:
        """All numbers, table after table."""
        tables = self.block_table, self.splits, self.tiles, self.query_partials
        return np.concatenate([table.ravel() for table in tables])

    def enlarged(self, layout: Layout) -> "Tables":
        """Return the same tables, padded to `layout`, which holds their own and has as many queries."""
        more_blocks = ((0, 0), (0, layout.num_blocks - self.block_table.shape[1]))
        missing = PartialColumn.TILES + layout.num_tile_partials - self.query_partials.shape[1]
        return Tables(
            block_table=np.pad(self.block_table, more_blocks),
            splits=pad(self.splits, layout.num_splits),
            tiles=pad(self.tiles, layout.num_tiles),
            query_partials=np.pad(self.query_partials, ((0, 0), (0, missing)), constant_values=-1),
            num_queries=self.num_queries,
        )


def pad(rows: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
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


def expand(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return, for counts [2, 1, 3], owners [0, 0, 1, 2, 2, 2] and numbers in owners [0, 1, 0, 0, 1, 2]."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
