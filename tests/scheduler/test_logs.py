"""Debug lines: numbers and ids of what happens, nothing of a prompt, and no work while they are off."""

import logging
import re
from dataclasses import replace

import pytest

from .driver import Driver, prompt_of, request


@pytest.fixture(autouse=True)
def _debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="pensieve.scheduler")


def lines(caplog: pytest.LogCaptureFixture, pattern: str) -> list[re.Match[str]]:
    """Match `pattern` with all of a line, and return the matches in the lines' order."""
    return [match for line in caplog.messages if (match := re.fullmatch(pattern, line))]


ADMITTED = (
    r"sequence (\d+) \((.*)\) is admitted to step (\d+), (\d+) steps after its arrival: (\d+) prompt tokens, "
    r"(\d+) tokens in all, (\d+) cached"
)


def test_an_admission_names_the_request_its_tokens_and_how_long_it_waited(
    caplog: pytest.LogCaptureFixture,
) -> None:
    driver = Driver(max_batch=1)
    for i in range(2):
        driver.scheduler.add(replace(request(prompt_of(1, 100)), request_id=f"req_{i}"))
    driver.finish()
    first, second = (match.groups() for match in lines(caplog, ADMITTED))
    assert first == ("1", "req_0", "1", "0", "100", "100", "0")
    # The first sequence takes two steps to prefill and four to decode.
    assert second == ("2", "req_1", "7", "6", "100", "100", "96")


def test_a_wait_for_a_prefix_names_its_producer(caplog: pytest.LogCaptureFixture) -> None:
    driver = Driver()
    for i in range(2):
        driver.scheduler.add(request([*prompt_of(1, 320), i]))
    driver.step()
    assert lines(caplog, "sequence 2 waits for sequence 1 to compute 320 shared tokens")


def test_a_wait_for_memory_is_written_once_until_more_is_available(caplog: pytest.LogCaptureFixture) -> None:
    driver = Driver(num_blocks=8)
    for i in range(2):
        driver.scheduler.add(request(prompt_of(i, 150)))
    for _ in range(3):
        driver.step()
    assert len(lines(caplog, "sequence 2 waits for memory: 5 blocks missing, 3 available")) == 1


def test_a_preemption_names_its_victim_the_blocks_it_frees_and_the_sequence_that_needs_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    driver = Driver(num_blocks=10)
    for i in range(4):
        driver.scheduler.add(request(prompt_of(i, 40), max_tokens=150))
    driver.finish()
    pattern = (
        r"sequence (\d+) is preempted in step \d+ and frees (\d+) blocks: "
        r"sequence (\d+) needs them for (\d+) tokens"
    )
    found = lines(caplog, pattern)
    assert len(found) == driver.scheduler.counters.preemptions > 0
    victim, num_freed, needy, num_tokens = map(int, found[0].groups())
    assert (victim, needy) == (4, 3)
    assert num_freed == 2
    assert num_tokens == 65  # one more than two blocks hold


def test_an_eviction_tells_how_many_blocks_are_free_before_and_after(
    caplog: pytest.LogCaptureFixture,
) -> None:
    driver = Driver(num_blocks=8)
    for i in range(2):
        driver.scheduler.add(request(prompt_of(i, 200), max_tokens=1))
        driver.finish()
    found = lines(caplog, r"(\d+) of (\d+) blocks are evicted: (\d+) free before, (\d+) after")
    counts = [[int(count) for count in match.groups()] for match in found]
    assert sum(evicted for evicted, *_ in counts) == driver.scheduler.counters.evictions > 0
    assert all(evicted <= wanted and before + evicted == after for evicted, wanted, before, after in counts)


def test_every_step_tells_its_rows_and_slices(caplog: pytest.LogCaptureFixture) -> None:
    driver = Driver()
    driver.scheduler.add(request(prompt_of(1, 100)))
    driver.finish()
    found = [match.groups() for match in lines(caplog, r"step (\d+): (\d+) decode rows, .* (\{.*\})")]
    assert found == [
        ("1", "0", "{1: 64}"),
        ("2", "0", "{1: 35}"),
        *((str(step), "1", "{}") for step in range(3, 7)),
    ]


def test_sequences_of_a_failed_step_are_followed(caplog: pytest.LogCaptureFixture) -> None:
    driver = Driver()
    for i in range(2):
        driver.scheduler.add(request(prompt_of(i, 20), max_tokens=20))
    for _ in range(3):
        driver.step()
    driver.scheduler.fail()
    driver.finish()
    assert len(lines(caplog, r"sequence [12] waits again: a step failed")) == 2


def test_nothing_is_written_or_put_together_while_debug_lines_are_off(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pensieve.scheduler.sequence.Sequence.__str__", None)  # a call raises
    caplog.set_level(logging.INFO, logger="pensieve.scheduler")
    driver = Driver(num_blocks=10)
    for i in range(4):
        driver.scheduler.add(request(prompt_of(i, 40), max_tokens=150))
    driver.finish()
    assert driver.scheduler.counters.preemptions
    assert not caplog.messages
