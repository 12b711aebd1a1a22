import random
from pathlib import Path

import pytest

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.cache.disk.orders import ReadOutcome
from pensieve.cache.disk.planned_writes import MAX_BLOCKS

from ...budget import trials
from .disk import BLOCK_BYTES, Disk, prompt


@pytest.fixture
def numbers() -> random.Random:
    return random.Random(7)


def test_a_conversation_is_found_to_its_last_full_block(tmp_path: Path, numbers: random.Random) -> None:
    disk = Disk(tmp_path)
    tokens: list[int] = []
    for turn in range(1, 8):
        tokens = prompt(numbers, turn, tokens)
        assert disk.save([*tokens, 1, 2, 3]) == 1  # nothing twice
        assert disk.load([*tokens, 4]) == len(tokens) // BLOCK_SIZE
    disk.close()
    again = Disk(tmp_path)
    assert again.load(tokens) == len(tokens) // BLOCK_SIZE
    again.check_accounts()


def test_a_long_prompt_has_several_files(tmp_path: Path, numbers: random.Random) -> None:
    disk, tokens = Disk(tmp_path), prompt(numbers, 2 * MAX_BLOCKS + 3)
    assert disk.save(tokens) == 3
    assert disk.load(tokens) == disk.index.stats.num_blocks == 2 * MAX_BLOCKS + 3


def test_a_branch_shares_the_files_of_what_it_has_in_common(tmp_path: Path, numbers: random.Random) -> None:
    disk, tokens = Disk(tmp_path), prompt(numbers, 20)
    disk.save(tokens)
    branch = prompt(numbers, 5, tokens[: 7 * BLOCK_SIZE])
    assert disk.load(branch) == 7
    written = disk.index.stats.written_bytes
    disk.save(branch)
    assert disk.load(branch) == 12
    assert disk.load(tokens) == 20
    assert disk.index.stats.written_bytes - written < 6 * BLOCK_BYTES


def test_blocks_that_memory_has_are_not_asked_for(tmp_path: Path, numbers: random.Random) -> None:
    disk, tokens = Disk(tmp_path), prompt(numbers, 20)
    disk.save(tokens[: 10 * BLOCK_SIZE])
    disk.save(tokens)
    orders = disk.index.find(disk.chain(tokens), 4, 15)
    assert [(order.first_block, order.num_blocks, order.offset) for order in orders] == [
        (4, 6, 4),
        (10, 5, 0),
    ]
    assert all(disk.read(order) for order in orders)


def test_the_deepest_state_is_found(tmp_path: Path, numbers: random.Random) -> None:
    disk, tokens = Disk(tmp_path), prompt(numbers, 20)
    disk.save(tokens)
    for num_blocks in (3, 12):
        assert disk.save_state(tokens[: num_blocks * BLOCK_SIZE])
        assert not disk.save_state(tokens[: num_blocks * BLOCK_SIZE])
    assert disk.load_state(tokens) == 12
    assert disk.load_state(tokens[: 11 * BLOCK_SIZE]) == 3
    assert disk.load_state(prompt(numbers, 20)) == 0


def test_another_models_kv_is_not_found_and_goes_first(tmp_path: Path, numbers: random.Random) -> None:
    tokens = prompt(numbers, 40)
    other = Disk(tmp_path, root=bytes(32))
    other.save(tokens)
    other.close()
    disk = Disk(tmp_path, limit=120_000)
    assert disk.load(tokens) == 0
    disk.save(tokens)  # both fit
    assert len(disk.sizes()) == 3
    more = prompt(numbers, 30)
    disk.save(more)
    assert disk.load(tokens) == 40
    assert disk.load(more) == 30
    disk.check_accounts()


def test_what_was_used_stays_longer(tmp_path: Path, numbers: random.Random) -> None:
    disk, used = Disk(tmp_path, limit=100_000), prompt(numbers, 10)
    disk.save(used)
    for _ in range(20):
        disk.load(used)
        disk.save(prompt(numbers, 10))
    assert disk.load(used) == 10
    for _ in range(80):
        disk.save(prompt(numbers, 10))
    assert disk.load(used) == 0  # but not for ever
    disk.check_accounts()


def test_a_lower_limit_holds_from_the_start(tmp_path: Path, numbers: random.Random) -> None:
    disk = Disk(tmp_path)
    for _ in range(20):
        disk.save(prompt(numbers, 10))
    disk.close()
    smaller = Disk(tmp_path, limit=60_000)
    smaller.check_accounts()
    assert smaller.index.stats.num_files > 1


def test_a_files_descendants_go_before_it(tmp_path: Path, numbers: random.Random) -> None:
    disk, tokens = Disk(tmp_path, limit=100_000), prompt(numbers, 60)
    for num_blocks in range(10, 70, 10):
        disk.save(tokens[: num_blocks * BLOCK_SIZE])
    for _ in range(3):
        disk.save(prompt(numbers, 10))
    assert disk.index.stats.num_evicted
    assert disk.load(tokens) == 10 * (len(disk.kept()) - 3)


def test_files_that_are_being_read_stay(tmp_path: Path, numbers: random.Random) -> None:
    disk, tokens = Disk(tmp_path, limit=60_000), prompt(numbers, 10)
    disk.save(tokens)
    orders = disk.index.find(disk.chain(tokens))
    disk.index.begin_restore(orders)
    for _ in range(20):
        disk.save(prompt(numbers, 10))
    assert all(disk.read(order) for order in orders)
    disk.index.end_restore(orders, False)
    for _ in range(20):
        disk.save(prompt(numbers, 10))
    assert disk.load(tokens) == 0


def test_a_file_that_is_read_too_late_stays(tmp_path: Path, numbers: random.Random) -> None:
    """A slow disk once lost its files by this."""
    disk = Disk(tmp_path)
    tokens = prompt(numbers, 4)
    disk.save(tokens)
    (order,) = disk.index.find(disk.chain(tokens))
    disk.index.note_read(ReadOutcome(order, "late", 10.0))
    assert disk.load(tokens) == 4
    disk.check_accounts()


def test_poisoned_kv_and_all_that_was_computed_from_it_is_removed(
    tmp_path: Path, numbers: random.Random
) -> None:
    disk, tokens = Disk(tmp_path), prompt(numbers, 10)
    longer, branch = prompt(numbers, 5, tokens), prompt(numbers, 5, tokens[: 4 * BLOCK_SIZE])
    for one in (tokens[: 4 * BLOCK_SIZE], tokens, longer, branch):
        disk.save(one)
        disk.save_state(one)
    later = disk.index.writes.plan(disk.chain(prompt(numbers, 2, longer)), 17, True).orders
    disk.index.forget(disk.chain(tokens), 4)
    disk.write(later[0])
    disk.save(tokens)
    assert disk.load(longer) == 10
    assert disk.load_state(longer) == 4
    assert disk.load(branch) == 9
    disk.check_accounts()


@pytest.mark.parametrize("seed", range(trials(6, 40, "PENSIEVE_DISK_TREES")))
def test_index_and_folder_agree_whatever_happens(tmp_path: Path, seed: int) -> None:
    """Random conversations that branch, with restarts, lost files and too little room."""
    numbers = random.Random(seed)
    has_room = seed % 2 == 0
    disk, prompts = Disk(tmp_path, 10**7 if has_room else 80_000), [prompt(numbers, 3)]
    disk.save(prompts[0])
    for _ in range(60):
        before = numbers.choice(prompts)
        cut = numbers.randrange(len(before) // BLOCK_SIZE + 1) * BLOCK_SIZE
        match numbers.choice(["grow", "grow", "branch", "load", "load", "state", "restart", "lost", "stop"]):
            case "grow":
                prompts.append(prompt(numbers, numbers.randrange(1, 9), before))
                disk.save(prompts[-1])
            case "branch":
                prompts.append(prompt(numbers, numbers.randrange(1, 9), before[:cut]))
                disk.save(prompts[-1])
            case "load":
                assert disk.load(before) == len(before) // BLOCK_SIZE or not has_room
                assert disk.load_state(before) <= len(before) // BLOCK_SIZE
            case "state":
                disk.save_state(before)
            case "restart":
                disk.close()
                disk = Disk(tmp_path, disk.limit)
            case "lost" if not has_room:
                disk.lose(numbers)
                disk.load(before)
                continue  # what is not looked for is not missed
            case "stop":
                orders = disk.index.writes.plan(disk.chain(before), numbers.randrange(20), True).orders
                disk.index.writes.engine_lost()
                for order in orders:  # a report that comes late
                    disk.index.writes.cancel(order)
        disk.check_accounts(may_miss=not has_room)
