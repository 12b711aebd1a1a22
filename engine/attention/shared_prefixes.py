"""Which slots several rows of a batch read together.

Rows that share a prefix hold the same blocks for it. Such a stretch is read once a step for all of them, and
the rest row by row; the parts are merged by their softmax sums. Sharing nests: all sessions share the tools,
the subagents of one session share more.
Source of the idea: Hydragen (Juravsky et al. 2024), cascade attention in FlashInfer.
"""

from dataclasses import dataclass

from ..step import SlotRange


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """A stretch of slots, in token order, and the rows that read all of it."""

    slot_ranges: tuple[SlotRange, ...]
    rows: tuple[int, ...]

    @property
    def num_slots(self) -> int:
        return sum(end - first for first, end in self.slot_ranges)


def last_slots(slot_ranges: tuple[SlotRange, ...], count: int) -> tuple[SlotRange, ...]:
    """The last `count` slots of `slot_ranges`, all of them where there are fewer."""
    kept: list[SlotRange] = []
    for first, end in reversed(slot_ranges):
        if count <= 0:
            break
        kept.append((max(first, end - count), end))
        count -= end - first
    return tuple(reversed(kept))


def shared_prefixes(rows: list[tuple[SlotRange, ...]]) -> list[SharedPrefix]:
    """Split the rows' runs so that each stretch is listed once, with every row that reads it.

    rows: each row's slots in token order. A row's segments, in the order returned, cover its slots in order.
    """
    found: list[SharedPrefix] = []
    pending = [
        (tuple(range(len(rows))), [list(reversed(slot_ranges)) for slot_ranges in rows])
    ]  # next run last
    while pending:
        indices, rests = pending.pop()
        for group in _by_next_slot(indices, rests).values():
            slot_ranges = _take_common([rests[indices.index(row)] for row in group])
            found.append(SharedPrefix(slot_ranges, group))
            going_on = tuple(row for row in group if rests[indices.index(row)])
            if going_on:
                pending.append((going_on, [rests[indices.index(row)] for row in going_on]))
    return found


def _by_next_slot(indices: tuple[int, ...], rests: list[list[SlotRange]]) -> dict[int, tuple[int, ...]]:
    groups: dict[int, tuple[int, ...]] = {}
    for row, rest in zip(indices, rests, strict=True):
        groups[rest[-1][0]] = (*groups.get(rest[-1][0], ()), row)
    return groups


def _take_common(rests: list[list[SlotRange]]) -> tuple[SlotRange, ...]:
    """Take from each of `rests`, which begin with the same slot, what all of them have in common."""
    common: list[SlotRange] = []
    while all(rests) and len({rest[-1][0] for rest in rests}) == 1:
        first, end = rests[0][-1][0], min(rest[-1][1] for rest in rests)
        common.append((first, end))
        are_equal = all(rest[-1][1] == end for rest in rests)
        for rest in rests:
            _, last = rest.pop()
            if last > end:
                rest.append((end, last))
        if not are_equal:
            break
    return tuple(common)
