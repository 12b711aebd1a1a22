"""The tables of a decode batch: shared tokens are cut into tiles, a row's own into splits. NumPy only.

Splits make work for every part of the device, however uneven the rows are.
"""

import numpy as np
import numpy.typing as npt

from ...step import SlotRange
from ..shared_prefixes import SharedPrefix
from .tables import (
    MIN_PARTIAL_ROWS,
    MIN_SPLITS,
    Ints,
    LayerKind,
    SplitColumn,
    Tables,
    expand,
    make_block_table,
    pad,
    round_up,
)
from .tiles import SharedStretch, share, single_tiles

TARGET_GROUPS = 4096
"""Thread groups that a launch of `split` aims at: several times as many as a large GPU runs at once."""

MIN_SPLIT = 320
"""Fewest tokens of a full split: starting a thread group and summing its partial cost time as well. Best of
64 to 512 for one row of 20k on an H200."""

TARGET_SPLIT_TILES, MIN_SPLIT_TILE = 528, 128
"""The same two numbers where splits are tiles, of which a thread group takes more heads and a large GPU runs
fewer at once. Chosen for an H200, two thread groups on each multiprocessor and two turns; not measured."""

MIN_SHARED = 512
"""Fewest tokens of a stretch that is read in tiles."""

MIN_SAVED = 16384
"""Tokens that tiles must save a batch, counted row by row, to be worth a launch more. On an H200 two rows
that share 24,000 tokens gain 2 %, sixteen that share 2,048 gain 15 %."""


def make_decode_tables(
    slot_ranges: list[tuple[SlotRange, ...]],
    prefixes: list[SharedPrefix],
    kind: LayerKind,
    num_rows: int | None = None,
) -> Tables:
    """Lay out a decode batch for a kind of layers.

    slot_ranges: each row's slots in token order; each range begins with a block.
    prefixes: the same slots, as `shared_prefixes` returns them.
    num_rows: rows of the tables; those after the batch's own rows are padding. None for no padding.
    The tables' sizes are rounded up, so that few layouts occur.
    """
    num_rows = len(slot_ranges) if num_rows is None else num_rows
    lengths = [sum(end - first for first, end in row) for row in slot_ranges]
    if kind.window is None:
        shared, unshared = _divide(lengths, prefixes, kind)
    else:
        shared, unshared = [], [[(max(0, length - kind.window), length)] for length in lengths]
    splits, counts = _split(lengths, unshared, kind)
    if kind.splits_are_tiles:
        splits = single_tiles(splits)
    ends = np.cumsum(counts)
    own = np.stack([ends - counts, ends], axis=1)  # FIRST_SPLIT, END_SPLIT
    tiles = share(shared, kind, num_rows)
    num_columns = -(-tiles.partials.shape[1] // 4) * 4
    tile_columns = np.full((num_rows, num_columns), -1)
    tile_columns[:, : tiles.partials.shape[1]] = tiles.partials
    query_partials = np.concatenate([pad(own, num_rows), tile_columns], axis=1)
    return Tables(
        block_table=pad(make_block_table(slot_ranges), num_rows),
        splits=pad(splits, round_up(max(len(splits), MIN_SPLITS), 8)),
        tiles=pad(tiles.table, round_up(len(tiles.table), 8)),
        query_partials=pad(query_partials, max(num_rows, MIN_PARTIAL_ROWS)).astype(np.int32),
        num_queries=num_rows,
    )


def _divide(
    lengths: list[int], prefixes: list[SharedPrefix], kind: LayerKind
) -> tuple[list[SharedStretch], list[list[SlotRange]]]:
    """Divide the rows' tokens into shared stretches and each row's unshared stretches, both of tokens."""
    is_worth = kind.tile_queries > 0 and _num_saved(prefixes) >= MIN_SAVED
    shared: list[SharedStretch] = []
    unshared: list[list[SlotRange]] = [[] for _ in lengths]
    num_divided = [0] * len(lengths)
    for prefix in prefixes:
        first = num_divided[prefix.rows[0]]
        end = first + prefix.num_slots
        is_shared = is_worth and len(prefix.rows) > 1 and prefix.num_slots >= MIN_SHARED
        if is_shared:
            shared.append(SharedStretch(prefix.rows, first, end))
        for row in prefix.rows:
            assert num_divided[row] == first
            if not is_shared:
                _add(unshared[row], first, end)
            num_divided[row] = end
    assert num_divided == lengths
    return shared, unshared


def _num_saved(prefixes: list[SharedPrefix]) -> int:
    """Return how many tokens fewer are read where shared prefixes are read once."""
    long = [prefix for prefix in prefixes if prefix.num_slots >= MIN_SHARED]
    return sum((len(prefix.rows) - 1) * prefix.num_slots for prefix in long)


def _split(
    lengths: list[int], unshared: list[list[SlotRange]], kind: LayerKind
) -> tuple[Ints, npt.NDArray[np.int64]]:
    """Cut the rows' unshared stretches of tokens into splits; return them and how many each row has."""
    flat = np.array([(row, first, end) for row, stretches in enumerate(unshared) for first, end in stretches])
    row, first, end = flat.T
    target, least = (
        (TARGET_SPLIT_TILES, MIN_SPLIT_TILE) if kind.splits_are_tiles else (TARGET_GROUPS, MIN_SPLIT)
    )
    size = max(least, -(-(int((end - first).sum()) * kind.num_groups) // target // 64) * 64)
    owner, offset = expand(-(-(end - first) // size))
    splits = np.empty((len(owner), len(SplitColumn)), np.int32)
    splits[:, SplitColumn.ROW] = row[owner]
    splits[:, SplitColumn.FIRST] = start = first[owner] + offset * size
    splits[:, SplitColumn.END] = np.minimum(start + size, end[owner])
    splits[:, SplitColumn.NEWEST] = np.array(lengths)[row[owner]] - 1
    return splits, np.bincount(row[owner], minlength=len(lengths))


def _add(stretches: list[SlotRange], first: int, end: int) -> None:
    """Append a stretch of tokens, or lengthen the last one."""
    if stretches and stretches[-1][1] == first:
        first, _ = stretches.pop()
    stretches.append((first, end))
