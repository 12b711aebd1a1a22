"""Which slots several rows of a batch read together.

Rows that share a prefix hold the same blocks for it. Shared blocks are read once a step for all of these
rows, other blocks row by row; the results are merged by their softmax sums. Sharing nests: all sessions share
the tools, the subagents of one session share more.
Source of the idea: Hydragen (Juravsky et al. 2024), cascade attention in FlashInfer.
"""

from dataclasses import dataclass

from ..step import SlotRange


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """Slots, in token order, that all of `rows` read; `rows` may be one row."""

    slot_ranges: tuple[SlotRange, ...]
    rows: tuple[int, ...]

    @property
    def num_slots(self) -> int:
        """How many slots the ranges hold."""
        return sum(end - first for first, end in self.slot_ranges)


def last_slots(slot_ranges: tuple[SlotRange, ...], count: int) -> tuple[SlotRange, ...]:
    """Return the last `count` slots of `slot_ranges`; all of them where there are fewer."""
    kept: list[SlotRange] = []
    for first, end in reversed(slot_ranges):
        if count <= 0:
            break
        kept.append((max(first, end - count), end))
        count -= end - first
    return tuple(reversed(kept))


def shared_prefixes(rows: list[tuple[SlotRange, ...]]) -> list[SharedPrefix]:
    """Divide the rows' slots so that each slot is listed once, with all rows that read it.

    rows: each row's slots in token order.
    The prefixes of a row, in the order returned, cover its slots in token order.
    """
    found: list[SharedPrefix] = []
    rests = [list(reversed(slot_ranges)) for slot_ranges in rows]  # of each row, the next range last
    pending = [tuple(range(len(rows)))]  # groups of rows that have shared all slots so far
    while pending:
        for group in _by_next_slot(pending.pop(), rests):
            found.append(SharedPrefix(_take_common([rests[row] for row in group]), group))
            unfinished = tuple(row for row in group if rests[row])
            if unfinished:
                pending.append(unfinished)
    return found


def divide_prefixes(prefixes: list[SharedPrefix], count: int) -> list[list[SharedPrefix]]:
    """Cut the slots of `prefixes` into at most `count` parts of about the same number of scores, in order."""
    share = -(-sum(len(prefix.rows) * prefix.num_slots for prefix in prefixes) // count)
    parts: list[list[SharedPrefix]] = [[]]
    room = share
    for prefix in prefixes:
        rest, taken = list(reversed(prefix.slot_ranges)), list[SlotRange]()
        while rest:
            first, end = rest.pop()
            cut = min(end, first - (-room // len(prefix.rows)))
            taken.append((first, cut))
            room -= (cut - first) * len(prefix.rows)
            if cut < end:
                rest.append((cut, end))
            if room <= 0:
                parts[-1].append(SharedPrefix(tuple(taken), prefix.rows))
                parts.append([])
                room, taken = share, []
        if taken:
            parts[-1].append(SharedPrefix(tuple(taken), prefix.rows))
    return [part for part in parts if part]


def _by_next_slot(rows: tuple[int, ...], rests: list[list[SlotRange]]) -> list[tuple[int, ...]]:
    """Group the rows by the slot that they read next."""
    groups: dict[int, list[int]] = {}
    for row in rows:
        groups.setdefault(rests[row][-1][0], []).append(row)
    return [tuple(group) for group in groups.values()]


def _take_common(rests: list[list[SlotRange]]) -> tuple[SlotRange, ...]:
    """Remove the slots that all of `rests` begin with, at least one, and return them."""
    if len(rests) == 1:
        alone = tuple(reversed(rests[0]))
        rests[0].clear()
        return alone
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
