"""Requests of different spaces find nothing of one another in the cache, and do not wait for one another."""

import random
from pathlib import Path

import pytest

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.cache.disk.index import DiskIndex
from pensieve.engine.step import SamplingParams
from pensieve.scheduler import disk_saves
from pensieve.scheduler.origin import Account, Origin
from pensieve.scheduler.scheduler import Scheduler
from pensieve.scheduler.sequence import Request, Sequence

from ..budget import trials
from .disk_oracle import DiskDriver
from .driver import Driver, prompt_of
from .oracle import spell

PROMPT = prompt_of(1, 300)
NUM_BLOCKS = 300 // BLOCK_SIZE
COMMON, ALICE, BOB = b"", b"alice", b"bob"


def add(scheduler: Scheduler, space: bytes, prompt: list[int] = PROMPT) -> Sequence:
    origin = Origin(space, "one", account=Account(space.decode(), space=space))
    return scheduler.add(Request(prompt, SamplingParams(), 4, origin=origin))


def num_found(driver: Driver | DiskDriver, space: bytes) -> int:
    sequence = add(driver.scheduler, space)
    driver.finish()
    assert sequence.tokens == spell(PROMPT, 4)
    return (sequence.num_cached_tokens or 0) // BLOCK_SIZE


@pytest.mark.parametrize("num_state_slots", [0, 20])
def test_a_prefix_is_found_by_requests_of_its_own_space_alone(num_state_slots: int) -> None:
    driver = Driver(num_state_slots=num_state_slots)
    assert [num_found(driver, space) for space in (COMMON, ALICE, BOB)] == [0, 0, 0]
    assert all(num_found(driver, space) for space in (COMMON, ALICE, BOB))
    driver.scheduler.reset_prefix_cache()
    assert [num_found(driver, space) for space in (COMMON, ALICE)] == [0, 0]


def test_nobody_waits_for_what_another_space_computes() -> None:
    driver = Driver()
    for space in (ALICE, ALICE, BOB):
        add(driver.scheduler, space)
    driver.step()
    driver.step()
    assert [sequence.space for sequence in driver.scheduler.running] == [ALICE, BOB]
    driver.finish()
    assert driver.scheduler.counters.prefix_waits == 1


def test_what_is_on_disk_is_found_by_requests_of_its_own_space_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_saves, "MIN_TOKENS", BLOCK_SIZE)
    monkeypatch.setattr(DiskIndex, "is_worth_restoring", lambda *_: True)
    with DiskDriver(tmp_path, random.Random(1)) as driver:
        assert [num_found(driver, space) for space in (ALICE, BOB)] == [0, 0]
    with DiskDriver(tmp_path, random.Random(1)) as driver:
        assert driver.index.stats.num_damaged == 0
        assert [num_found(driver, space) for space in (COMMON, ALICE, BOB)] == [0, NUM_BLOCKS, NUM_BLOCKS]


def test_whatever_runs_beside_a_space_finds_what_it_would_find_alone() -> None:
    """As long as there is memory enough."""
    for case in range(trials(5, 60)):
        rng = random.Random(case)
        plan = [(rng.choice((ALICE, BOB)), [rng.randrange(3)] * rng.randrange(1, 200)) for _ in range(12)]
        found: dict[tuple[tuple[bytes, ...], bytes], list[int | None]] = {}
        for kept in ((ALICE, BOB), (ALICE,), (BOB,)):
            driver = Driver(num_blocks=400, max_batch=2)
            for space, prompt in plan:
                if space in kept:
                    sequence = add(driver.scheduler, space, prompt)
                    driver.finish()
                    found.setdefault((kept, space), []).append(sequence.num_cached_tokens)
        both = ALICE, BOB
        assert found.get((both, ALICE)) == found.get(((ALICE,), ALICE))
        assert found.get((both, BOB)) == found.get(((BOB,), BOB))
