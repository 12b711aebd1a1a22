import pytest
from hypothesis import given
from hypothesis import strategies as st

from pensieve.cache.blocks import BLOCK_SIZE, BlockAllocator, BlockTable, OutOfBlocks, WindowTable


def test_a_lone_sequence_is_one_slot_range() -> None:
    allocator = BlockAllocator(64)
    blocks = allocator.allocate(4)
    for _ in range(10):
        blocks += allocator.allocate(3, after=blocks[-1])
    assert blocks == list(range(34))


def test_sequences_that_grow_in_turn_stay_contiguous() -> None:
    allocator = BlockAllocator(256)
    tables = [BlockTable() for _ in range(4)]
    for _ in range(8):
        for table in tables:
            table.extend(allocator.allocate(2, after=table.blocks[-1] if table.blocks else None, room=16))
    assert [len(table.slot_ranges(16 * BLOCK_SIZE)) for table in tables] == [1, 1, 1, 1]


def test_asking_for_too_much_changes_nothing() -> None:
    allocator = BlockAllocator(8)
    allocator.allocate(5)
    with pytest.raises(OutOfBlocks):
        allocator.allocate(4)
    assert allocator.num_free == 3
    assert len(allocator.allocate(3)) == 3


def test_a_shared_block_is_freed_by_its_last_holder() -> None:
    allocator = BlockAllocator(4)
    blocks = allocator.allocate(2)
    allocator.share(blocks)
    allocator.release(blocks)
    assert allocator.num_free == 2
    allocator.release(blocks)
    assert allocator.num_free == 4


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.integers(0, 30)), max_size=60))
def test_no_block_is_ever_lost_or_handed_out_twice(steps: list[tuple[int, bool, int]]) -> None:
    allocator = BlockAllocator(40)
    held: list[list[int]] = []
    for count, grows, which in steps:
        if held and which % 3 == 0:
            allocator.release(held.pop(which % len(held)))
        elif count <= allocator.num_free:
            after = held[which % len(held)][-1] if grows and held else None
            held.append(allocator.allocate(count, after, room=which))
        taken = [block for blocks in held for block in blocks]
        assert len(taken) == len(set(taken)) == allocator.num_held
        assert allocator.num_free == 40 - len(taken)
        assert all(allocator.ref_count(block) == (block in taken) for block in range(40))


@given(st.lists(st.integers(0, 99), min_size=1, max_size=20, unique=True), st.data())
def test_slot_ranges_cover_the_slots_in_token_order(blocks: list[int], data: st.DataObject) -> None:
    table = BlockTable()
    table.extend(blocks)
    num_tokens = data.draw(st.integers(1, len(table.blocks) * BLOCK_SIZE))
    slots = [slot for first, end in table.slot_ranges(num_tokens) for slot in range(first, end)]
    expected = [block * BLOCK_SIZE + i for block in blocks for i in range(BLOCK_SIZE)]
    assert slots == expected[:num_tokens]
    assert table.clear() == blocks
    assert table.blocks == []


def test_a_block_that_checkpoints_share_is_cached_until_the_last_of_them_goes() -> None:
    allocator = BlockAllocator(4)
    blocks = allocator.allocate(2)
    for block in [*blocks, blocks[0]]:
        allocator.enter_tree(block)
    allocator.release(blocks)
    assert (allocator.num_cached, allocator.num_held, allocator.num_unshared(blocks)) == (2, 0, 1)
    allocator.share(blocks[:1])
    assert (allocator.num_cached, allocator.num_held) == (1, 1)
    allocator.leave_tree(blocks[0])
    allocator.release(blocks[:1])
    assert (allocator.num_cached, allocator.num_free) == (2, 2)
    for block in blocks:
        allocator.leave_tree(block)
    assert (allocator.num_cached, allocator.num_free) == (0, 4)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=20, unique=True), st.integers(0, 9), st.data())
def test_a_window_has_the_newest_tokens_slots(blocks: list[int], begun: int, data: st.DataObject) -> None:
    """Blocks leave at the front in any steps; tokens are counted from the sequence's beginning."""
    table, end = WindowTable(), begun + len(blocks)
    table.begin(begun, blocks)
    for first in sorted(data.draw(st.lists(st.integers(0, end - 1), max_size=4))):
        left = blocks[max(0, first - begun) :]
        table.drop(first)
        assert table.blocks == left
        num_tokens = data.draw(st.integers((end - 1) * BLOCK_SIZE + 1, end * BLOCK_SIZE))
        slots = [slot for low, high in table.slot_ranges(num_tokens) for slot in range(low, high)]
        expected = [block * BLOCK_SIZE + i for block in left for i in range(BLOCK_SIZE)]
        assert slots == expected[: len(expected) - end * BLOCK_SIZE + num_tokens]
        assert table.num_missing(num_tokens + 2 * BLOCK_SIZE) == 2
    table.clear()
    assert (table.blocks, table.num_dropped) == ([], 0)
