"""Tiles: stretches of tokens together with all queries that read them. NumPy only.

Two kinds of work come in tiles: the slots that several decode rows share, which are read once for all of
these rows, and the slices of prompts, whose queries read nearly the same tokens.
Source of the idea for shared slots: Hydragen (Juravsky et al. 2024), cascade attention in FlashInfer.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...step import SlotRange
from .tables import (
    MIN_PARTIAL_ROWS,
    Ints,
    LayerKind,
    PartialColumn,
    SplitColumn,
    Tables,
    TileColumn,
    make_block_table,
    pad,
)

Numbers = npt.NDArray[np.integer[Any]]

SHARED_GROUPS = 264
"""Thread groups that a launch over shared stretches aims at: as many as a large GPU runs at once, two on each
of 132 multiprocessors. On an H200 better than 512 (16 rows x 24,000 tokens, 36 layers: 4.9 and 5.4 ms)."""

SLICE_GROUPS = 132
"""Thread groups that a launch over a prompt's slice aims at, where its queries alone make fewer."""

MIN_TILE = 256
"""Fewest tokens of a tile that is cut for the sake of parallel work: each part has a partial to be summed."""

TILE_STEP = 64
"""Tiles begin at multiples of so many tokens from the stretch's beginning: as many as an iteration takes."""


class SharedStretch(NamedTuple):
    """Tokens that several rows share; at the same places in all of them."""

    rows: tuple[int, ...]
    first: int
    end: int


class Tiles(NamedTuple):
    """Tiles, and which partials of theirs each query sums."""

    table: Ints  # (n, TileColumn + 2 * tile_queries)
    partials: Ints  # (queries, k) numbers of partials, -1 for none

    @classmethod
    def none(cls, num_queries: int) -> "Tiles":
        """Return no tiles for `num_queries`."""
        return cls(np.zeros((0, len(TileColumn)), np.int32), np.zeros((num_queries, 0), np.int32))


def share(stretches: list[SharedStretch], kind: LayerKind, num_queries: int) -> Tiles:
    """Cut stretches that rows share into tiles. A decode row's query has the row's number."""
    if not stretches:
        return Tiles.none(num_queries)
    width = kind.tile_queries
    work = sum((each.end - each.first) * -(-len(each.rows) // width) for each in stretches)
    size = -(-work * kind.tile_groups // SHARED_GROUPS)
    size = max(MIN_TILE, -(-size // TILE_STEP) * TILE_STEP)
    tables: list[Ints] = []
    found: list[list[int]] = [[] for _ in range(num_queries)]
    for rows, first, end in stretches:
        starts = np.arange(first, end, size)
        for at in range(0, len(rows), width):
            queries = np.full((len(starts), width), -1)
            queries[:, : len(rows) - at] = rows[at : at + width]
            numbers = (sum(map(len, tables)) + np.arange(len(starts))) * width
            for place, row in enumerate(rows[at : at + width]):
                found[row] += (numbers + place).tolist()
            ends = np.minimum(starts + size, end)
            tables.append(_table(rows[0], starts, ends, queries, np.full_like(queries, end)))
    longest = max(map(len, found))
    partials = np.array([row + [-1] * (longest - len(row)) for row in found], np.int32)
    return Tiles(np.concatenate(tables), partials.reshape(num_queries, longest))


def single_tiles(splits: Ints) -> Ints:
    """Return splits of decode rows as tiles of one query each, which the row's number names."""
    row, first, end, newest = splits.T
    return _table(row, first, end, row[:, None], newest[:, None] + 1)


def make_slice_tables(
    slot_ranges: tuple[SlotRange, ...], length: int, kind: LayerKind, num_queries: int | None = None
) -> Tables:
    """Lay out a prompt's slice for a kind of layers: its queries are the last `length` tokens.

    slot_ranges: the slots of all of the sequence's tokens, in order; each range begins with a block.
    num_queries: `length` or more, for the layout that all slices of up to so many tokens have, on as many
    blocks. Padding queries have no partials.
    """
    total = sum(end - first for first, end in slot_ranges)
    tiles = _slice_tiles(total - length, length, kind, num_queries or length)
    no_splits = np.zeros((length, PartialColumn.TILES), np.int32)
    query_partials = np.concatenate([no_splits, tiles.partials], axis=1)
    tables = Tables(
        block_table=make_block_table([slot_ranges]),
        splits=np.zeros((0, len(SplitColumn)), np.int32),
        tiles=tiles.table,
        query_partials=pad(query_partials, max(length, MIN_PARTIAL_ROWS)),
        num_queries=length,
    )
    return tables if num_queries is None else _with_padding(tables, kind, num_queries)


def _with_padding(tables: Tables, kind: LayerKind, num_queries: int) -> Tables:
    """Return a slice's tables in the layout of slices of up to `num_queries` tokens."""
    num_parts, num_groups = _most_parts(num_queries, kind), -(-num_queries // kind.tile_queries)
    num_blocks = 4 ** (-(-(tables.layout.num_blocks - 1).bit_length() // 2))  # few layouts for all contexts
    layout = replace(
        tables.layout,
        num_blocks=num_blocks,
        num_tiles=num_groups * num_parts,
        num_tile_partials=num_parts,
    )
    tables = tables.enlarged(layout)
    none = np.full((max(num_queries, MIN_PARTIAL_ROWS), PartialColumn.TILES + num_parts), -1, np.int32)
    none[:, : PartialColumn.TILES] = 0
    none[: tables.num_queries] = tables.query_partials[: tables.num_queries]
    return replace(tables, query_partials=none, num_queries=num_queries)


def _most_parts(num_queries: int, kind: LayerKind) -> int:
    """Return how many tiles the tokens that a tile's queries see are cut into, at most."""
    return max(1, SLICE_GROUPS // (-(-num_queries // kind.tile_queries) * kind.tile_groups))


def _slice_tiles(start: int, length: int, kind: LayerKind, num_queries: int) -> Tiles:
    """Cut the causal attention of `length` tokens from `start` on into tiles, the longest first.

    num_queries: decides how many tiles there may be.
    """
    width = kind.tile_queries
    groups = np.arange(0, length, width)
    ends = start + np.minimum(groups + width, length)
    firsts = np.zeros_like(ends) if kind.window is None else np.maximum(0, start + groups + 1 - kind.window)
    longest = int((ends - firsts).max())
    num_parts = max(1, min(_most_parts(num_queries, kind), longest // MIN_TILE))
    sizes = -(-(ends - firsts) // num_parts // TILE_STEP) * TILE_STEP
    part_firsts = np.minimum(firsts[:, None] + np.arange(num_parts) * sizes[:, None], ends[:, None])
    part_ends = np.minimum(part_firsts + sizes[:, None], ends[:, None])
    numbers = np.arange(len(groups) * width).reshape(-1, 1, width)
    queries = np.where(numbers < length, numbers, -1).repeat(num_parts, axis=1).reshape(-1, width)
    limits = (start + 1 + numbers).repeat(num_parts, axis=1).reshape(-1, width)
    table = _table(0, part_firsts.ravel(), part_ends.ravel(), queries, limits)
    lengths = (part_ends - part_firsts).ravel()
    order = np.argsort(-lengths, kind="stable")  # short ones fill up the end of the launch
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    partials = np.where(lengths > 0, place * width, -width).reshape(len(groups), num_parts, 1)
    by_query = np.where(partials < 0, -1, partials + np.arange(width))
    by_query = by_query.swapaxes(1, 2).reshape(-1, num_parts)[:length]
    return Tiles(table[order], by_query.astype(np.int32))


def _table(row: int | Numbers, firsts: Numbers, ends: Numbers, queries: Numbers, limits: Numbers) -> Ints:
    """Return tiles; row: of the block table, of all or of each; queries, limits: (tiles, tile_queries)."""
    table = np.zeros((len(firsts), len(TileColumn) + 2 * queries.shape[1]), np.int32)
    table[:, TileColumn.ROW] = row
    table[:, TileColumn.FIRST] = firsts
    table[:, TileColumn.END] = ends
    table[:, TileColumn.COUNT] = (queries >= 0).sum(axis=1)
    table[:, len(TileColumn) :: 2] = queries
    table[:, len(TileColumn) + 1 :: 2] = limits
    return table
