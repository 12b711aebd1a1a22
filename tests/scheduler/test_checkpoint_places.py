from hypothesis import given
from hypothesis import strategies as st

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.scheduler.checkpoint_places import GRID, SPACING, checkpoint_places


def test_marks_are_rounded_down_to_blocks() -> None:
    assert checkpoint_places([100, 1000, 2047], start=0, end=2047) == [96, 992, 2016]


def test_a_mark_near_the_one_before_or_the_start_is_left_out() -> None:
    assert checkpoint_places([330, 500, 530, 700], start=320, end=900) == [480, 672]


def test_marks_outside_of_what_is_computed_are_left_out() -> None:
    assert checkpoint_places([100, 5000], start=320, end=900) == []


def test_long_stretches_get_a_grid_that_starts_anywhere_alike() -> None:
    assert checkpoint_places([20_000], start=0, end=20_010) == [4096, 8192, 12288, 16384, 20_000]
    assert checkpoint_places([20_000], start=8224, end=20_010) == [12288, 16384, 20_000]
    assert checkpoint_places([16_400], start=8224, end=16_410) == [12288, 16384]


LENGTHS = st.integers(0, 30_000)


@given(st.lists(LENGTHS, max_size=5), LENGTHS, LENGTHS)
def test_no_stretch_is_longer_than_the_grid_by_much_and_no_mark_far_from_a_place(
    marks: list[int], start: int, length: int
) -> None:
    start -= start % BLOCK_SIZE
    end = start + length
    places = checkpoint_places([*marks, end], start, end)
    assert places == sorted(set(places))
    stops = [start, *places]
    assert all(SPACING <= b - a <= GRID + SPACING for a, b in zip(stops, places, strict=False))
    assert end - stops[-1] < SPACING + BLOCK_SIZE
    for mark in marks:
        if start <= mark <= end:
            assert min(mark - stop for stop in stops if stop <= mark) < SPACING + BLOCK_SIZE
