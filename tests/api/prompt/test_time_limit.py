"""Code that never ends is ended, and nothing else is."""

import contextlib
import threading

import pytest

from pensieve.api.prompt.time_limit import TimeIsUp, run_limited

# An interrupt may hit a destructor that the garbage collector runs.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_what_ends_in_time_is_left_alone() -> None:
    assert run_limited(lambda: sum(range(5)), 60.0) == 10


def test_what_the_code_raises_is_passed_on() -> None:
    with pytest.raises(ZeroDivisionError):
        run_limited(lambda: 1 // 0, 60.0)


def test_a_loop_without_end_is_ended_even_if_it_catches_what_it_can() -> None:
    def stubborn() -> None:
        while True:
            with contextlib.suppress(Exception):
                sum(range(100))

    with pytest.raises(TimeIsUp):
        run_limited(stubborn, 0.05)


def test_an_interrupt_that_a_destructor_swallows_is_followed_by_another() -> None:
    """It was lost, and the template went on for ever, when garbage was collected at that moment."""

    class Slow:
        def __del__(self) -> None:
            for _ in range(10**9):
                pass

    def code() -> None:
        Slow()
        while True:
            pass

    with pytest.raises(TimeIsUp):
        run_limited(code, 0.05)


def test_only_the_thread_that_is_too_slow_is_interrupted() -> None:
    results: list[str] = []
    stop = threading.Event()

    def other() -> None:
        results.append(run_limited(lambda: "done" if stop.wait(30) else "waited in vain", 60.0))

    thread = threading.Thread(target=other)
    thread.start()
    for _ in range(3):
        with pytest.raises(TimeIsUp):
            run_limited(lambda: [None for _ in iter(int, 1)], 0.02)
    stop.set()
    thread.join()
    assert results == ["done"]


def test_code_that_ends_just_in_time_is_never_interrupted_afterwards() -> None:
    """The exception once could have come after the call had returned."""
    for i in range(300):
        limit_s = i / 100_000
        with contextlib.suppress(TimeIsUp):
            run_limited(lambda: sum(range(5_000)), limit_s)
        assert sum(range(500)) == 124_750
