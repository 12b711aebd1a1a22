"""What the decode kernels are told of a batch: block tables, items of work, ranges. NumPy only.

    row's tokens:  |--- shared with other rows ---|------ its own ------|newest|
    read by:        matmuls, once for all rows     items of the kernel

A row's tokens are cut into items, so that every part of the device has work however uneven the rows are.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...cache.blocks import BLOCK_SIZE
from ..segments import Segment
from ..step import Run

Ints = npt.NDArray[np.int32]

TARGET_GROUPS = 4096
"""Thread groups that a pass aims at: several for each place on a large GPU, so that they end together."""

MIN_ITEM = 320
"""Tokens of an item, at least: starting a group and joining its part cost time as well. Best of 64 to
512 for one row of 20k on an H200."""

SHARED_TILE = 16384
"""Slots of a shared read at most; its scores take memory."""

SHARED_ROWS = 3
SHARED_SLOTS = 16384
"""A stretch is read with matmuls where its slots times the rows beyond SHARED_ROWS reach SHARED_SLOTS. They
read at about a third of the kernel's speed and cost a few launches (16 rows x 16k on an H200: 0.08 ms)."""


@dataclass(frozen=True, slots=True)
class SharedRead:
    """A run of slots that several rows read together, every one of them all of it."""

    rows: tuple[int, ...]
    run: Run


@dataclass(frozen=True, slots=True)
class Tables:
    """One batch, as the kernels take it."""

    table: Ints  # (rows, blocks) block ids, rows padded with 0
    items: Ints  # (n, 4): row, first token, end, the row's newest token
    ranges: Ints  # (rows, 2 + k): first item, end, then indices into the shared reads' rows, padded with -1
    shared: tuple[SharedRead, ...]


def make_tables(
    runs: list[tuple[Run, ...]], reads: list[Segment], num_groups: int, window: int | None = None
) -> Tables:
    """Lay out a decode batch.

    runs: each row's slots in token order; every run begins with a block. reads: the same, see `segments`.
    num_groups: thread groups that one item takes. window: tokens that a row sees, its newest included.
    """
    lengths = [sum(end - first for first, end in row) for row in runs]
    if window is None:
        shared, stretches = _share(lengths, reads)
    else:
        shared, stretches = (), [[(max(0, length - window), length)] for length in lengths]
    items, counts = _items(lengths, stretches, num_groups)
    ends = np.cumsum(counts)
    ranges = np.stack([ends - counts, ends], axis=1)
    return Tables(
        table=block_table(runs),
        items=items,
        ranges=np.concatenate([ranges, _picks(len(runs), shared)], axis=1).astype(np.int32),
        shared=shared,
    )


def block_table(runs: list[tuple[Run, ...]]) -> Ints:
    """(rows, blocks): each row's blocks in token order, padded with 0; 64 columns or a multiple of that."""
    flat = np.array([(row, first, end) for row, mine in enumerate(runs) for first, end in mine])
    row, first, end = flat.T
    first_block = first // BLOCK_SIZE
    owner, offset = _expand(-(-end // BLOCK_SIZE) - first_block)
    num_blocks = np.bincount(row[owner], minlength=len(runs))
    column = np.arange(len(owner)) - np.repeat(np.cumsum(num_blocks) - num_blocks, num_blocks)
    table = np.zeros((len(runs), -(-num_blocks.max() // 64) * 64), np.int32)
    table[row[owner], column] = first_block[owner] + offset
    return table


def _items(
    lengths: list[int], stretches: list[list[Run]], num_groups: int
) -> tuple[Ints, npt.NDArray[np.int64]]:
    """Cut the rows' own stretches into items; returns them and how many each row has."""
    flat = np.array([(row, first, end) for row, mine in enumerate(stretches) for first, end in mine])
    row, first, end = flat.T
    size = max(MIN_ITEM, -(-(int((end - first).sum()) * num_groups) // TARGET_GROUPS // 64) * 64)
    owner, offset = _expand(-(-(end - first) // size))
    start = first[owner] + offset * size
    newest = np.array(lengths)[row[owner]] - 1
    items = np.stack([row[owner], start, np.minimum(start + size, end[owner]), newest], axis=1)
    return items.astype(np.int32), np.bincount(row[owner], minlength=len(lengths))


def _expand(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For [2, 1, 3]: owners [0, 0, 1, 2, 2, 2], and each one's number with its owner [0, 1, 0, 0, 1, 2]."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def _share(lengths: list[int], reads: list[Segment]) -> tuple[tuple[SharedRead, ...], list[list[Run]]]:
    """Divide the rows' tokens into shared reads and each row's own stretches of tokens."""
    shared: list[SharedRead] = []
    own: list[list[Run]] = [[] for _ in lengths]
    done = [0] * len(lengths)
    for segment in reads:
        for first, end in segment.runs:
            is_shared = (len(segment.rows) - SHARED_ROWS) * (end - first) >= SHARED_SLOTS
            if is_shared:
                tiles = range(first, end, SHARED_TILE)
                shared += [SharedRead(segment.rows, (at, min(end, at + SHARED_TILE))) for at in tiles]
            for row in segment.rows:
                if not is_shared:
                    _add(own[row], done[row], done[row] + end - first)
                done[row] += end - first
    assert done == lengths
    return tuple(shared), own


def _add(stretches: list[Run], first: int, end: int) -> None:
    """Append a stretch of tokens, or lengthen the last one."""
    if stretches and stretches[-1][1] == first:
        first, _ = stretches.pop()
    stretches.append((first, end))


def _picks(num_rows: int, shared: tuple[SharedRead, ...]) -> npt.NDArray[np.int64]:
    """(rows, k): where each row stands among the rows of all shared reads, one after the other."""
    found: list[list[int]] = [[] for _ in range(num_rows)]
    index = 0
    for read in shared:
        for row in read.rows:
            found[row].append(index)
            index += 1
    width = max(map(len, found))
    padded = [row + [-1] * (width - len(row)) for row in found]
    return np.array(padded, np.int64).reshape(num_rows, width)
