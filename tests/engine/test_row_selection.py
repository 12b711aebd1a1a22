import mlx.core as mx
from hypothesis import given
from hypothesis import strategies as st

from pensieve.engine.row_selection import take_rows


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_rows_are_taken_in_any_order_and_more_than_once(rows: list[int]) -> None:
    array = mx.arange(30).reshape(10, 3)
    assert take_rows(array, rows).tolist() == [array[row].tolist() for row in rows]
