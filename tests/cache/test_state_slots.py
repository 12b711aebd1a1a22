import pytest
from hypothesis import given
from hypothesis import strategies as st

from pensieve.cache.state_slots import StateAllocator


@given(
    st.lists(st.tuples(st.sampled_from(["take", "share", "release", "enter", "leave"]), st.integers(0, 9)))
)
def test_free_cached_and_held_slots_are_all_slots(steps: list[tuple[str, int]]) -> None:
    slots = StateAllocator(5)
    holders = [0] * 5  # sequences
    in_tree = [False] * 5
    for action, number in steps:
        slot = number % 5
        if action == "take" and slots.num_free:
            taken = slots.allocate()
            assert holders[taken] == 0
            assert not in_tree[taken]
            holders[taken] = 1
        elif action == "share" and (holders[slot] or in_tree[slot]):
            slots.share(slot)
            holders[slot] += 1
        elif action == "release" and holders[slot]:
            slots.release(slot)
            holders[slot] -= 1
        elif action == "enter" and holders[slot] and not in_tree[slot]:
            slots.enter_tree(slot)
            in_tree[slot] = True
        elif action == "leave" and in_tree[slot]:
            slots.leave_tree(slot)
            in_tree[slot] = False
        cached = sum(kept and not count for kept, count in zip(in_tree, holders, strict=True))
        held = sum(count > 0 for count in holders)
        assert (slots.num_cached, slots.num_held, slots.num_free) == (cached, held, 5 - cached - held)
        assert [slots.ref_count(i) for i in range(5)] == [
            count + kept for kept, count in zip(in_tree, holders, strict=True)
        ]


def test_a_free_slot_can_be_neither_shared_nor_released() -> None:
    slots = StateAllocator(1)
    with pytest.raises(AssertionError):
        slots.share(0)
    with pytest.raises(AssertionError):
        slots.release(0)
