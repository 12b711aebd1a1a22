import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pensieve.cache.disk.segment_file import try_read, try_write

from ...budget import trials
from .disk import ROOT, Disk, prompt


@pytest.fixture
def numbers() -> random.Random:
    return random.Random(11)


@pytest.fixture
def tokens(numbers: random.Random) -> list[int]:
    return prompt(numbers, 3)


@pytest.fixture
def disk(tmp_path: Path, tokens: list[int]) -> Disk:
    """A disk with one file of KV and one of a state."""
    disk = Disk(tmp_path)
    disk.save(tokens)
    disk.save_state(tokens)
    return disk


def reopened(disk: Disk) -> Disk:
    disk.close()
    return Disk(disk.path)


def test_no_file_with_a_flipped_bit_is_served(disk: Disk, numbers: random.Random, tokens: list[int]) -> None:
    for trial in range(trials(60, 200, "PENSIEVE_BIT_FLIPS")):
        path = numbers.choice(disk.kept())
        content = bytearray(path.read_bytes())
        content[numbers.randrange(len(content))] ^= 1 << numbers.randrange(8)
        path.write_bytes(content)
        if trial % 2:
            disk = reopened(disk)
        if path.suffix == ".kv":
            assert disk.load(tokens) == 0
        else:
            assert disk.load_state(tokens) == 0
        assert not path.exists()
        assert disk.index.stats.num_damaged
        disk.save(tokens)
        disk.save_state(tokens)
        disk.check_accounts()


def test_no_file_that_is_too_short_or_too_long_is_served(
    disk: Disk, numbers: random.Random, tokens: list[int]
) -> None:
    (path,) = (path for path in disk.kept() if path.suffix == ".kv")
    size = path.stat().st_size
    lengths = [0, 1, 95, 96, size - 1, size + 1, size + 4096]
    for length in lengths + [numbers.randrange(size) for _ in range(trials(20, 40, "PENSIEVE_TRUNCATIONS"))]:
        os.truncate(path, length)
        if length % 2:
            disk = reopened(disk)
        assert disk.load(tokens) == 0
        assert not path.exists()
        disk.save(tokens)
    disk.check_accounts()


def link(path: Path) -> None:
    target = path.parent.parent / "target"
    path.rename(target)
    path.symlink_to(target)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def zero_tail(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1000] + bytes(1000))


def lost(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [link, pipe, zeros, zero_tail, lost], ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("at_start", [False, True])
def test_what_is_no_whole_file_of_ours_is_not_served(
    disk: Disk, tokens: list[int], harm: Callable[[Path], None], at_start: bool
) -> None:
    (path,) = (path for path in disk.kept() if path.suffix == ".kv")
    harm(path)
    if at_start:
        disk = reopened(disk)
    assert disk.load(tokens) == 0
    assert not os.path.lexists(path)
    assert (disk.path / "target").exists() == (harm is link)  # what a link leads to stays
    disk.save(tokens)
    assert disk.load(tokens) == 3


def test_another_users_file_is_not_served(
    disk: Disk, tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    order = disk.index.find(disk.chain(tokens))[0]
    monkeypatch.setattr("os.getuid", lambda: 54321)
    assert try_read(order)[0].problem == "damaged"


def test_swapped_files_are_not_served(disk: Disk, numbers: random.Random, tokens: list[int]) -> None:
    other = prompt(numbers, 3)
    disk.save(other)
    first, second = (path for path in disk.kept() if path.suffix == ".kv")
    for _ in range(2):
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
        assert disk.load(tokens) == disk.load(other) == 0
        disk.save(tokens)
        disk.save(other)
        assert disk.load(tokens) == disk.load(other) == 3


def test_a_file_of_swapped_names_is_removed_at_the_start(
    disk: Disk, numbers: random.Random, tokens: list[int]
) -> None:
    other = prompt(numbers, 3)
    disk.save(other)
    first, second = (path for path in disk.kept() if path.suffix == ".kv")
    second.rename(first)
    disk = reopened(disk)
    assert disk.load(tokens) == disk.load(other) == 0
    assert not first.exists()


def test_other_tokens_are_not_served_even_if_the_index_believes_so(
    disk: Disk, numbers: random.Random, tokens: list[int]
) -> None:
    """As if two prefixes had one digest."""
    other = disk.chain(prompt(numbers, 3))
    other.digests = disk.chain(tokens).digests
    (order,) = disk.index.find(other)
    assert try_read(order)[0].problem == "damaged"


def test_a_file_of_another_model_is_not_served(disk: Disk, tokens: list[int]) -> None:
    """Nor one that lies where this model's file of the same tokens would lie."""
    (foreign,) = (path for path in disk.kept() if path.suffix == ".kv")
    content = foreign.read_bytes()
    disk.close()
    other = Disk(disk.path, root=b"of another model".ljust(len(ROOT)))
    assert other.load(tokens) == 0
    other.save(tokens)
    assert other.load(tokens) == 3
    (own,) = (path for path in other.kept() if path.suffix == ".kv" and path != foreign)
    own.write_bytes(content)
    assert other.load(tokens) == 0


def test_a_payload_of_another_size_leaves_nothing_behind(disk: Disk, numbers: random.Random) -> None:
    chain = disk.chain(prompt(numbers, 2))
    for size in (1999, 2001):
        (order,) = disk.index.writes.plan(chain, 2, True).orders
        with pytest.raises(AssertionError):
            try_write(order, [bytes(size)])
        disk.index.writes.cancel(order)
        disk.check_accounts()


def test_files_are_the_users_alone(disk: Disk) -> None:
    assert {path.stat().st_mode & 0o777 for path in disk.sizes()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in disk.path.rglob("*") if path.is_dir()} == {0o700}
