"""Where a prompt leaves checkpoints of its recurrent state, for later prompts to begin there."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

from ..cache.blocks import BLOCK_SIZE

SPACING = 64
"""Fewest tokens between two checkpoints: a state takes more memory than fewer tokens are worth."""

GRID = 4096
"""Most tokens between two checkpoints while a prompt is computed; the tree thins its paths out later."""


def checkpoint_places(marks: Iterable[int], start: int, end: int) -> list[int]:
    """Return the lengths of prefixes, sorted, after which a prompt leaves a checkpoint.

    marks: lengths of prefixes after which other prompts may go on differently. Each is rounded down to full
    blocks, and left out less than `SPACING` after the one before it. Longer stretches than
    `GRID` get its multiples, the same for all prompts that share a stretch.
    start: length of the prefix that is computed already. end: tokens that will be computed.
    """
    places = [start]
    for mark in sorted(marks):
        place = mark - mark % BLOCK_SIZE
        if place - places[-1] >= SPACING and place <= end:
            places.append(place)
    grid = [place for pair in pairwise([*places, end]) for place in _grid(*pair)]
    return sorted([*places[1:], *grid])


def _grid(first: int, last: int) -> Iterator[int]:
    """Yield the places between two neighbours that lie more than `GRID` apart."""
    if last - first > GRID:
        for place in range(first - first % GRID + GRID, last, GRID):
            if place - first >= SPACING and last - place >= SPACING:
                yield place
