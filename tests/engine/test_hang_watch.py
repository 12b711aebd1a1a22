"""When the engine's process is taken for stalled, and when for hung. No test waits for anything."""

import random

import pytest

from pensieve.engine.hang_watch import FIRST_STEP, LOOK_S, SILENCE, STEP, HangWatch


def pass_time(watch: HangWatch, seconds: float, beats: bool = True) -> None:
    for _ in range(round(seconds / LOOK_S)):
        watch.look(LOOK_S, beats)


def test_a_process_without_heartbeats_is_told_of_within_ten_seconds_and_replaced_within_thirty() -> None:
    watch = HangWatch()
    pass_time(watch, SILENCE.stalled_s - LOOK_S, beats=False)
    assert (watch.state, watch.hang) == ("ok", None)
    pass_time(watch, 10 - SILENCE.stalled_s, beats=False)
    assert (watch.state, watch.hang) == ("stalled", None)
    pass_time(watch, 20, beats=False)
    assert watch.hang is not None
    assert "has not moved" in watch.hang


def test_one_heartbeat_makes_all_well_again() -> None:
    watch = HangWatch()
    pass_time(watch, SILENCE.hung_s - LOOK_S, beats=False)
    watch.look(LOOK_S, True)
    assert (watch.state, watch.hang) == ("ok", None)


def test_a_step_without_end_is_told_of_within_ten_seconds_and_ends_the_process_within_forty() -> None:
    watch = HangWatch()
    watch.begin(0.01)
    watch.end(True)
    watch.begin(0.5)
    assert "one step" in hang_after(watch, 40, stalled_after_s=10)


def hang_after(watch: HangWatch, seconds: float, stalled_after_s: float) -> str:
    pass_time(watch, stalled_after_s)
    assert (watch.state, watch.hang) == ("stalled", None)
    pass_time(watch, seconds - stalled_after_s)
    assert watch.hang is not None
    return watch.hang


def test_the_first_step_of_its_kind_may_compile_and_so_may_the_one_queued_before() -> None:
    watch = HangWatch()
    watch.begin(None)
    pass_time(watch, FIRST_STEP.stalled_s - LOOK_S)
    assert watch.state == "ok"
    watch.end(True)
    watch.begin(0.1)  # brings the result of the step before
    pass_time(watch, FIRST_STEP.hung_s - LOOK_S)
    assert watch.hang is None
    watch.end(True)
    watch.begin(0.1)
    pass_time(watch, STEP.hung_s)
    assert watch.hang is not None


@pytest.mark.parametrize("seed", range(20))
def test_steps_up_to_ten_times_as_slow_as_predicted_are_legal(seed: int) -> None:
    """A prompt of 100,000 tokens is hundreds of such steps."""
    rng, watch = random.Random(seed), HangWatch()
    for _ in range(200):
        expected_s = rng.choice([None, 0.01, 0.5, 3.0])
        watch.begin(expected_s)
        pass_time(watch, 50 if expected_s is None else 10 * expected_s)
        assert (watch.state, watch.hang) == ("ok", None)
        watch.end(True)
        pass_time(watch, rng.randrange(100))
    assert watch.state == "ok"


def test_after_a_hang_the_next_process_gets_twice_the_time_until_a_step_ends() -> None:
    watch = HangWatch()
    watch.begin(0.1)
    watch.end(True)
    for factor in (1, 2, 4):
        watch.begin(0.1)
        pass_time(watch, factor * STEP.hung_s - LOOK_S)
        assert watch.hang is None
        pass_time(watch, LOOK_S)
        assert watch.hang is not None
        watch.restart(is_hung=True)
        watch.end(False)
        assert (watch.state, watch.hang) == ("restarting", None)
        watch.restarted()
    watch.begin(0.1)
    watch.end(True)
    watch.begin(0.1)
    pass_time(watch, STEP.hung_s)
    assert watch.hang is not None


def test_nothing_is_expected_of_a_process_that_loads() -> None:
    watch = HangWatch()
    watch.restart()
    pass_time(watch, 1000, beats=False)
    assert (watch.state, watch.hang) == ("restarting", None)
    watch.restarted()
    assert watch.state == "ok"


def test_a_pause_of_the_server_itself_is_not_laid_to_the_engines_charge() -> None:
    """A closed laptop, or Ctrl-Z: the clock has gone on, but nobody could have answered."""
    watch = HangWatch()
    watch.begin(0.1)
    watch.look(10_000, False)
    assert (watch.state, watch.hang) == ("ok", None)
