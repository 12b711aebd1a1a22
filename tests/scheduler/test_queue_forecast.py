"""What the queue's past says of its future, on a clock of the tests' own."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pensieve.scheduler.queue_forecast import FIRST_GUESS_S, MAX_RETRY_AFTER_S, QueueForecast

from ..budget import trials


def moving(interval_s: float, num_started: int, at_once: int = 1) -> tuple[QueueForecast, float]:
    """A queue that was never empty, in which `at_once` sequences have started at a time."""
    forecast, now_s = QueueForecast(), 100.0
    forecast.observe(now_s, 8, is_waiting=True)
    for _ in range(num_started // at_once):
        now_s += interval_s * at_once
        forecast.observe(now_s, at_once, is_waiting=True)
    return forecast, now_s


@given(interval_s=st.floats(0.01, 20), num_started=st.integers(8, 40), at_once=st.sampled_from([1, 4, 8]))
@settings(max_examples=trials(30, 300))
def test_the_queue_moves_on_as_it_has_moved(interval_s: float, num_started: int, at_once: int) -> None:
    forecast, now_s = moving(interval_s, num_started, at_once)
    assert 0.99 * interval_s <= forecast.interval_s(now_s) <= 1.01 * interval_s + interval_s * at_once


def test_time_in_which_nobody_waits_does_not_count() -> None:
    forecast, now_s = moving(2.0, 10)
    forecast.observe(now_s + 2, 1, is_waiting=False)
    forecast.observe(now_s + 1000, 3, is_waiting=True)
    assert 1.9 < forecast.interval_s(now_s + 1000) < 2.1


def test_a_queue_that_stands_still_is_expected_to_stand_as_long_again() -> None:
    forecast = QueueForecast()
    assert forecast.interval_s(5.0) == FIRST_GUESS_S
    forecast.observe(10.0, 8, is_waiting=True)
    assert forecast.interval_s(10.0) == FIRST_GUESS_S
    assert forecast.interval_s(40.0) == 30.0


def test_refused_clients_come_back_one_after_another() -> None:
    forecast, now_s = moving(2.0, 10)
    waits = [forecast.refuse(now_s) for _ in range(40)]
    assert waits[:3] == [2.0, 4.0, 6.0]
    assert waits[-1] == MAX_RETRY_AFTER_S
    # A minute later all of them have come back, and one that is refused then is told as little as the first.
    assert forecast.refuse(now_s + MAX_RETRY_AFTER_S + 1) <= 10.0


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 9), st.booleans(), st.booleans()), max_size=40))
@settings(max_examples=trials(50, 1000))
def test_whatever_happens_a_forecast_is_a_time(
    history: list[tuple[float, int, bool, bool]],
) -> None:
    forecast, now_s = QueueForecast(), 0.0
    for elapsed_s, num_started, is_waiting, is_refused in history:
        now_s += elapsed_s
        forecast.observe(now_s, num_started, is_waiting)
        if is_refused:
            assert 0 <= forecast.refuse(now_s) <= MAX_RETRY_AFTER_S
        assert 0 <= forecast.interval_s(now_s) < float("inf")
