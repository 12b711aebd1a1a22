import random

import pytest

from pensieve.cache.disk.write_rules import FailurePauses, WriteBudget


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("seed", range(3))
def test_no_hour_writes_more_than_its_budget(seed: int) -> None:
    numbers, time = random.Random(seed), Time()
    budget, written = WriteBudget(10**6, time), list[tuple[float, int]]()
    for _ in range(400):
        time.now += numbers.choice([0, 1, 60, 1800])
        size = numbers.randrange(100_000)
        if budget.take(size, numbers.random() < 0.7):
            written.append((time.now, size))
        assert sum(size for at, size in written if at > time.now - 3600) <= 10**6
    assert sum(size for _, size in written) > 0.45e6 * time.now / 3600 / 2


def test_what_was_used_once_leaves_room_for_what_was_used_twice() -> None:
    budget = WriteBudget(1000, Time())
    assert budget.take(250, is_reused=False)
    assert not budget.take(1, is_reused=False)
    assert budget.take(250, is_reused=True)
    assert not budget.take(1, is_reused=True)
    budget.give_back(100)
    assert budget.take(100, is_reused=True)


def test_a_clock_that_goes_backwards_gives_nothing() -> None:
    time = Time()
    budget, pauses = WriteBudget(1000, time), FailurePauses(time)
    assert budget.take(500, is_reused=True)
    time.now = -1e9
    assert not budget.take(1, is_reused=True)
    time.now += 7200
    assert budget.take(500, is_reused=True)
    assert not pauses.is_off


def test_pauses_grow_until_the_disk_is_given_up() -> None:
    time = Time()
    pauses, lengths = FailurePauses(time), []
    while not pauses.is_off:
        pauses.failed("it is broken")
        start = time.now
        while pauses.is_paused and not pauses.is_off:
            time.now += 1
        lengths.append(time.now - start)
    assert lengths == [1, 2, 4, 8, 16, 32, 60, 0]


def test_one_success_forgets_all_failures() -> None:
    time = Time()
    pauses = FailurePauses(time)
    for _ in range(20):
        pauses.failed("it is full")
        time.now += FailurePauses.LONGEST_S
        pauses.succeeded()
    assert not pauses.is_off
