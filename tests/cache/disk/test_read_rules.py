import pytest

from pensieve.cache.disk.read_rules import MOST_UNKNOWN_S, ReadPace, ReadRate

from .test_write_rules import Time

MB = 10**6


def test_the_rate_of_reading_is_the_one_measured() -> None:
    rate = ReadRate(Time())
    for _ in range(30):
        rate.measured(100 * MB, 1.0)
        rate.measured(100, 1.0)  # says nothing
    assert rate.seconds([100 * MB]) == pytest.approx(1.0 + ReadRate.FIXED_S, rel=0.01)


def test_a_disk_that_was_slow_is_tried_again_some_minutes_later() -> None:
    time = Time()
    rate = ReadRate(time)
    rate.unfinished(10 * MB, 0.0)  # it is not known whether it was begun
    assert rate.is_worth([100 * MB], 1.0)
    rate.unfinished(10 * MB, 10.0)
    assert not rate.is_worth([10 * MB], 9.0)
    time.now += 3 * ReadRate.DOUBLED_S
    assert rate.bytes_per_s == 8 * MB
    rate.unfinished(100 * MB, 1.0)  # no proof of more
    assert rate.bytes_per_s == 8 * MB
    time.now += 1e9
    assert rate.bytes_per_s == ReadRate.GUESS


def test_a_restore_is_too_slow_once_its_pace_is_that_of_computing() -> None:
    time = Time()
    pace = ReadPace(100 * MB, time)
    for num_left in range(9, 1, -1):
        time.now += 1.0
        pace.read(10 * MB)
        assert not any(pace.is_too_slow(num_left * 1.01) for _ in range(10))
        assert pace.is_too_slow(num_left * 0.99)


def test_a_file_that_does_not_come_at_all_is_waited_for_as_long_as_computing_takes() -> None:
    time = Time()
    pace = ReadPace(10 * MB, time)
    time.now += 1.0
    assert [pace.is_too_slow(0.9) for _ in range(5)] == [False, False, False, True, True]  # it may have come
    assert not pace.is_too_slow(1.1)
    assert not pace.is_too_slow(None)
    time.now += MOST_UNKNOWN_S
    assert pace.is_too_slow(None)
