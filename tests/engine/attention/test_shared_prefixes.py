from hypothesis import given
from hypothesis import strategies as st

from pensieve.engine.attention.shared_prefixes import (
    SharedPrefix,
    divide_prefixes,
    last_slots,
    shared_prefixes,
)
from pensieve.engine.step import SlotRange


def test_rows_that_share_nothing_are_listed_apart() -> None:
    assert shared_prefixes([((0, 10),), ((32, 40), (64, 70))]) == [
        SharedPrefix(((0, 10),), (0,)),
        SharedPrefix(((32, 40), (64, 70)), (1,)),
    ]


def test_a_shared_prefix_is_listed_once() -> None:
    found = shared_prefixes([((0, 64), (128, 130)), ((0, 70),), ((0, 64), (96, 97))])
    assert found[0] == SharedPrefix(((0, 64),), (0, 1, 2))
    assert sorted(found[1:], key=lambda prefix: prefix.rows) == [
        SharedPrefix(((128, 130),), (0,)),
        SharedPrefix(((64, 70),), (1,)),
        SharedPrefix(((96, 97),), (2,)),
    ]


def test_sharing_nests() -> None:
    found = shared_prefixes(
        [((0, 32), (64, 96), (200, 210)), ((0, 32), (64, 96), (300, 310)), ((0, 32), (400, 401))]
    )
    assert SharedPrefix(((0, 32),), (0, 1, 2)) in found
    assert SharedPrefix(((64, 96),), (0, 1)) in found
    assert len(found) == 5


def test_the_last_slots_may_begin_inside_a_range() -> None:
    slot_ranges = ((64, 96), (0, 40), (128, 130))
    assert last_slots(slot_ranges, 2) == ((128, 130),)
    assert last_slots(slot_ranges, 12) == ((30, 40), (128, 130))
    assert last_slots(slot_ranges, 42) == ((0, 40), (128, 130))
    assert last_slots(slot_ranges, 43) == ((95, 96), (0, 40), (128, 130))
    assert last_slots(slot_ranges, 1000) == slot_ranges


def joined(slot_ranges: list[SlotRange]) -> tuple[SlotRange, ...]:
    """Join ranges that touch, as a block table does."""
    found: list[SlotRange] = []
    for first, end in slot_ranges:
        if found and found[-1][1] == first:
            first = found.pop()[0]
        found.append((first, end))
    return tuple(found)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=7), st.data())
def test_each_row_is_covered_in_order_and_shared_slots_are_read_once(
    tree: list[list[int]], data: st.DataObject
) -> None:
    """Rows are walks down a tree whose nodes have slots of their own, as in the prefix tree."""
    node_slots: dict[tuple[int, ...], int] = {}
    rows = []
    for row, walk in enumerate(tree):
        nodes = [tuple(walk[: depth + 1]) for depth in range(len(walk))]
        starts = [node_slots.setdefault(node, 32 * len(node_slots)) for node in nodes]
        starts.append(10_000 + 32 * row)
        rows.append(joined([(s, s + (32 if s < 10_000 else data.draw(st.integers(1, 32)))) for s in starts]))
    found = shared_prefixes(rows)
    for row, slot_ranges in enumerate(rows):
        expected = [slot for first, end in slot_ranges for slot in range(first, end)]
        covered = [
            s
            for prefix in found
            if row in prefix.rows
            for first, end in prefix.slot_ranges
            for s in range(first, end)
        ]
        assert covered == expected
    read = [slot for prefix in found for first, end in prefix.slot_ranges for slot in range(first, end)]
    assert len(read) == len(set(read))


@given(
    st.lists(st.tuples(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 5)), min_size=1),
    st.integers(1, 9),
)
def test_parts_of_prefixes_are_the_prefixes_in_order_and_about_equal(
    sizes: list[tuple[list[int], int]], count: int
) -> None:
    """sizes: of each prefix the lengths of its ranges, and the number of its rows."""
    prefixes, start = [], 0
    for lengths, num_rows in sizes:
        slot_ranges = []
        for length in lengths:
            slot_ranges.append((start, start + length))
            start += length + 8
        prefixes.append(SharedPrefix(tuple(slot_ranges), tuple(range(num_rows))))
    parts = divide_prefixes(prefixes, count)
    assert listed([prefix for part in parts for prefix in part]) == listed(prefixes)
    scores = [sum(len(prefix.rows) * prefix.num_slots for prefix in part) for part in parts]
    assert 1 <= len(parts) <= count
    assert max(scores) <= -(-sum(scores) // count) + 5


def listed(prefixes: list[SharedPrefix]) -> list[tuple[int, tuple[int, ...]]]:
    """Every slot with the rows that read it."""
    return [
        (slot, prefix.rows)
        for prefix in prefixes
        for first, end in prefix.slot_ranges
        for slot in range(first, end)
    ]
