"""A disk that is full or broken: nothing raises or is left, and the tier comes back or says it is off."""

import errno
import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pensieve.cache.disk.disk_room import AGE_S
from pensieve.cache.disk.segment_file import try_write
from pensieve.cache.disk.write_rules import FailurePauses

from .disk import Disk, payload, prompt

CODES = [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS]
CALLS = ["open", "write", "sync", "rename", "remove", "read", "free"]


@pytest.fixture
def numbers() -> random.Random:
    return random.Random(3)


def fails_at(place: int, code: int, count: int = 1) -> Callable[[str], int | None]:
    """Let `count` calls fail, from the call with a number on."""
    calls = iter(range(10**9))
    return lambda name: code if place <= next(calls) < place + count else None


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.__getitem__)
def test_one_failing_call_is_a_miss_and_no_more(tmp_path: Path, numbers: random.Random, code: int) -> None:
    disk = Disk(tmp_path, limit=40_000)
    for place in range(20):
        before, tokens = prompt(numbers, 2), prompt(numbers, 4)
        disk.save(before)
        disk.files.fail = fails_at(place, code)
        disk.save(tokens)
        disk.load(tokens)
        disk.files.fail = fails_at(0, code, 0)
        disk.now += FailurePauses.LONGEST_S
        disk.save(tokens)
        assert disk.load(tokens) == 4
        disk.check_accounts()
    assert not disk.index.stats.is_off


@pytest.mark.parametrize("call", CALLS)
def test_a_disk_that_fails_for_good_is_left_alone(
    tmp_path: Path, numbers: random.Random, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    disk, tokens = Disk(tmp_path, limit=40_000), prompt(numbers, 2)
    disk.save(tokens)
    num_calls = 0

    def fail(name: str) -> int | None:
        nonlocal num_calls
        num_calls += name == call
        return errno.EIO if name == call else None

    disk.files.fail = fail
    with caplog.at_level(logging.INFO):
        for _ in range(100):
            disk.save(prompt(numbers, 4))
            disk.load(tokens)
            disk.check_limit()
            disk.now += FailurePauses.LONGEST_S
    if call in ("open", "write", "sync", "rename"):
        assert disk.index.stats.is_off
        assert len(caplog.records) == 1
        assert num_calls == FailurePauses.MAX_IN_ROW
        assert disk.load(tokens) == 0
    else:
        assert not caplog.records


def test_a_full_disk_is_tried_again_later(tmp_path: Path, numbers: random.Random) -> None:
    disk, tokens = Disk(tmp_path), prompt(numbers, 2)
    disk.files.fail = lambda name: errno.ENOSPC if name == "write" else None
    assert disk.save(tokens) == 0
    disk.files.fail = lambda name: None
    assert disk.save(tokens) == 0
    disk.now += FailurePauses.FIRST_S
    assert disk.save(tokens) == 1
    assert disk.index.stats.num_write_failures == 1
    assert disk.index.stats.num_skipped == 1


def test_failures_of_what_was_asked_for_together_count_once(tmp_path: Path, numbers: random.Random) -> None:
    disk, tokens = Disk(tmp_path), prompt(numbers, 64 * 10)
    orders = disk.index.writes.plan(disk.chain(tokens), 640, True).orders
    disk.files.fail = lambda name: errno.ENOSPC if name == "write" else None
    for order in orders:
        disk.write(order)
    assert disk.index.stats.num_write_failures == len(orders) == 10
    assert not disk.index.stats.is_off


def test_the_last_of_the_disk_is_left_to_others(tmp_path: Path, numbers: random.Random) -> None:
    disk = Disk(tmp_path)
    prompts = [prompt(numbers, 5) for _ in range(10)]
    for tokens in prompts:
        disk.save(tokens)
    disk.files.free = 10_000
    disk.now += AGE_S + 1
    assert disk.save(prompt(numbers, 5)) == 1  # older KV makes room
    assert disk.index.stats.num_evicted > 0
    num_evicted = disk.index.stats.num_evicted
    disk.files.free = 9_000
    disk.now += AGE_S + 1
    assert disk.save(prompt(numbers, 5)) == 0  # others fill the disk: that the tier's files go would not help
    assert disk.index.stats.num_evicted == num_evicted
    disk.files.free = 10**6
    disk.now += AGE_S + 1
    assert disk.save(prompt(numbers, 5)) == 1
    disk.check_accounts()


def test_a_file_that_cannot_be_removed_goes_on_counting(tmp_path: Path, numbers: random.Random) -> None:
    disk = Disk(tmp_path, limit=60_000)
    disk.save(prompt(numbers, 10))
    disk.files.fail = lambda name: errno.EACCES if name == "remove" else None
    for _ in range(10):
        disk.save(prompt(numbers, 10))
        disk.check_limit()
    disk.files.fail = lambda name: None
    disk.now += AGE_S
    assert disk.save(prompt(numbers, 10)) == 1
    disk.check_accounts()


def test_a_file_that_cannot_be_removed_twice_counts_once(tmp_path: Path, numbers: random.Random) -> None:
    disk, tokens = Disk(tmp_path), prompt(numbers, 4)
    (order,) = disk.index.writes.plan(disk.chain(tokens), 4, True).orders
    outcome = try_write(order, [payload(order.key, order.payload_bytes)], disk.files)
    disk.files.fail = lambda name: errno.EACCES if name == "remove" else None
    disk.index.writes.engine_lost()
    disk.index.writes.note_written(outcome)  # a report that comes late
    assert disk.index.stats.used_bytes == sum(disk.sizes().values()) + disk.folder_bytes
    disk.files.fail = lambda name: None
    disk.now += AGE_S
    assert disk.save(tokens) == 1
    disk.check_accounts()
