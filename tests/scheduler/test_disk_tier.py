"""Prefixes through the disk: every sequence gets its own tokens, and every block is accounted for."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.cache.disk import planned_writes
from pensieve.cache.disk.chains import Chain
from pensieve.cache.disk.folder import NAME_BYTES, disk_bytes
from pensieve.cache.disk.index import DiskIndex
from pensieve.cache.disk.planned_writes import PlannedWrites, WritePlan
from pensieve.cache.disk.read_rules import ReadPace
from pensieve.engine.served_model import WindowPool
from pensieve.engine.step import StepPlan
from pensieve.scheduler import disk_saves
from pensieve.scheduler.origin import Origin
from pensieve.scheduler.sequence import Request, Sequence

from ..budget import trials
from ..cache.disk.disk import at_once
from .disk_oracle import BLOCK_BYTES, DiskDriver
from .driver import prompt_of, request
from .oracle import spell

WINDOW = WindowPool(41, num_blocks=60, slice_tokens=64, max_running=8)


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short prompts are saved as well, and reading always pays, however slow it is."""
    monkeypatch.setattr(disk_saves, "MIN_TOKENS", BLOCK_SIZE)
    monkeypatch.setattr(disk_saves, "STATE_SHARE", 1000)
    monkeypatch.setattr(DiskIndex, "is_worth_restoring", lambda *_: True)
    monkeypatch.setattr(ReadPace, "is_too_slow", lambda *_: False)


def judge(started: list[tuple[Sequence, list[int], int]]) -> None:
    for sequence, prompt, count in started:
        expected = spell(prompt, count)
        if sequence.finish_reason != "length":
            expected = expected[: len(sequence.tokens)]
        assert sequence.tokens == expected
        assert sequence.num_disk_tokens <= (sequence.num_cached_tokens or 0)


def ask(driver: DiskDriver, prompt: list[int], count: int = 4) -> Sequence:
    """Answer one request."""
    sequence = driver.scheduler.add(request(prompt, count))
    driver.finish()
    return sequence


def test_a_second_server_finds_what_the_first_has_computed(tmp_path: Path) -> None:
    prompt = prompt_of(1, 300)
    with DiskDriver(tmp_path, random.Random(1)) as driver:
        ask(driver, prompt)
    with DiskDriver(tmp_path, random.Random(1)) as driver:
        sequence = ask(driver, prompt)
        assert sequence.tokens == spell(prompt, 4)
        assert sequence.num_disk_tokens == sequence.num_cached_tokens == 288
        assert driver.scheduler.counters.disk_cache_hits == 288
        again = ask(driver, prompt)
        assert (again.num_disk_tokens, again.num_cached_tokens) == (0, 288)
        assert driver.index.stats.num_writes == 0


def test_a_sequence_that_had_to_make_room_goes_on_from_disk(tmp_path: Path) -> None:
    """It was looked up at its first start only, and computed again what its files hold."""
    prompts = [prompt_of(1, 300), prompt_of(2, 300)]
    with DiskDriver(tmp_path, random.Random(1), num_blocks=700 // BLOCK_SIZE, max_batch=2) as driver:
        sequences = [driver.scheduler.add(request(prompt, 200)) for prompt in prompts]
        driver.finish()
        assert driver.scheduler.counters.preemptions
        assert driver.index.stats.num_reads
    for sequence, prompt in zip(sequences, prompts, strict=True):
        assert sequence.tokens == spell(prompt, 200)


def test_sequences_that_share_a_prefix_share_its_restore(tmp_path: Path) -> None:
    prompt = prompt_of(1, 300)
    with DiskDriver(tmp_path, random.Random(1)) as driver:
        ask(driver, prompt)
    with DiskDriver(tmp_path, random.Random(1)) as driver:
        twins = [driver.scheduler.add(request([*prompt, i], 4)) for i in range(4)]
        driver.finish()
        assert all(twin.num_disk_tokens == 288 for twin in twins)
        assert driver.index.stats.num_reads == 1


def test_damaged_files_are_computed_and_written_anew(tmp_path: Path) -> None:
    prompt = prompt_of(1, 300)
    with DiskDriver(tmp_path, random.Random(1)) as driver:
        ask(driver, prompt)
    (file,) = tmp_path.rglob("*.kv")
    content = bytearray(file.read_bytes())
    content[-40] ^= 1
    file.write_bytes(content)
    for num_found in (0, 288):
        with DiskDriver(tmp_path, random.Random(1)) as driver:
            sequence = ask(driver, prompt)
            assert sequence.tokens == spell(prompt, 4)
            assert sequence.num_disk_tokens == num_found


def test_nothing_of_a_restore_is_kept_where_the_cache_is_emptied_meanwhile(tmp_path: Path) -> None:
    prompt = prompt_of(1, 300)
    with DiskDriver(tmp_path, random.Random(1)) as driver:
        ask(driver, prompt)
    with DiskDriver(tmp_path, random.Random(1)) as driver:
        sequence = driver.scheduler.add(request(prompt, 4))
        plan = driver.scheduler.schedule()
        assert plan is not None
        assert plan.restores
        driver.scheduler.reset_prefix_cache()
        driver.take(driver.runner.step(plan))
        driver.finish()
        assert sequence.num_cached_tokens == 0
        assert sequence.tokens == spell(prompt, 4)


@pytest.mark.parametrize("num_state_slots", [0, 30])
def test_a_restore_that_turns_out_slow_is_given_up_and_the_rest_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_state_slots: int
) -> None:
    monkeypatch.setattr(planned_writes, "MAX_BLOCKS", 3)  # of a file
    prompt = prompt_of(1, 380)
    with DiskDriver(tmp_path, random.Random(1), num_state_slots=num_state_slots) as driver:
        ask(driver, prompt)
    with DiskDriver(tmp_path, random.Random(1), num_state_slots=num_state_slots) as driver:
        sequence = driver.scheduler.add(request(prompt, 4))
        while not driver.index.stats.num_reads:
            driver.step()
        assert driver.scheduler.restoring
        monkeypatch.setattr(ReadPace, "is_too_slow", lambda *_: True)
        driver.finish()
        assert sequence.tokens == spell(prompt, 4)
        assert driver.index.stats.num_damaged == 0
        assert sequence.num_disk_tokens == sequence.num_cached_tokens
        if num_state_slots:
            assert sequence.num_disk_tokens == 0  # the state comes last
        else:
            assert 96 <= sequence.num_disk_tokens < 352


def test_kv_that_led_to_no_numbers_is_removed_from_disk(tmp_path: Path) -> None:
    prompt = prompt_of(1, 300)
    with DiskDriver(tmp_path, random.Random(1)) as driver:
        sequence = ask(driver, prompt)
        driver.scheduler.disk.distrust(sequence)
        driver.runner.jobs.finish()
        assert not list(tmp_path.rglob("*.kv"))


def test_each_block_is_written_once_and_the_rest_of_a_conversation_is_not_looked_through_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_saves, "BESIDE_ROWS_BYTES", 2 * BLOCK_BYTES)
    monkeypatch.setattr(disk_saves, "ALONE_BYTES", 2 * BLOCK_BYTES)
    planned: list[int] = []
    honest = PlannedWrites.plan

    def plan(self: PlannedWrites, chain: Chain, num_blocks: int, is_reused: bool) -> WritePlan:
        planned.append(num_blocks)
        return honest(self, chain, num_blocks, is_reused)

    monkeypatch.setattr(PlannedWrites, "plan", plan)
    with DiskDriver(tmp_path, random.Random(1), run=at_once) as driver:
        first = ask(driver, prompt_of(1, 300), 40)
        assert planned == [2, 4, 6, 8, 9, 10]
        ask(driver, first.tokens + prompt_of(2, 30), 40)
        assert planned[6:] == [11, 12]
        assert driver.index.stats.num_blocks == 12


def test_where_nothing_may_be_written_a_prompt_is_looked_through_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole prompt was asked for block by block in one step, which took a second."""
    monkeypatch.setattr(disk_saves, "BESIDE_ROWS_BYTES", BLOCK_BYTES)
    monkeypatch.setattr(disk_saves, "ALONE_BYTES", BLOCK_BYTES)
    with DiskDriver(tmp_path, random.Random(1)) as driver:
        monkeypatch.setattr(driver.index._room, "make", lambda *_: "none")
        ask(driver, prompt_of(1, 600), 40)
        assert driver.index.stats.num_skipped <= 3
        assert driver.index.stats.num_blocks == 0


def test_side_requests_are_not_written(tmp_path: Path) -> None:
    with DiskDriver(tmp_path, random.Random(1)) as driver:
        driver.scheduler.add(replace(request(prompt_of(1, 300)), origin=Origin(request_class="auxiliary")))
        driver.finish()
        assert driver.index.stats.num_writes == 0


def test_short_prompts_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_saves, "MIN_TOKENS", 512)
    with DiskDriver(tmp_path, random.Random(1)) as driver:
        ask(driver, prompt_of(1, 500))
        assert driver.index.stats.num_writes == 0
        ask(driver, prompt_of(2, 600))
        assert driver.index.stats.num_writes > 0


@pytest.mark.parametrize(
    ("num_state_slots", "window", "lag"),
    [(0, None, 0), (0, None, 1), (30, None, 0), (9, None, 1), (0, WINDOW, 1), (30, WINDOW, 0)],
)
def test_random_schedules_through_disk_give_every_sequence_its_own_tokens(
    tmp_path: Path, num_state_slots: int, window: WindowPool | None, lag: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers one after the other on one folder; arrivals, cancellations, failures, damage, slow reads."""
    moods = random.Random(7)
    monkeypatch.setattr(ReadPace, "is_too_slow", lambda *_: moods.random() < 0.05)
    num_found = num_lost = 0
    for seed in range(trials(1, 4, "PENSIEVE_DISK_TREES")):
        rng = random.Random(seed)
        folder = tmp_path / str(seed)
        stems = [prompt_of(seed * 10 + i, rng.randint(1, 250)) for i in range(3)]
        share = rng.choice([0.0, 0.0, 0.02])

        def breaks(_: StepPlan, rng: random.Random = rng, share: float = share) -> bool:
            return rng.random() < share

        for _ in range(3):
            with DiskDriver(
                folder,
                rng,
                rng.choice([12, 30, 100]),
                lag,
                rng.choice([1, 3, 8]),
                breaks,
                num_state_slots,
                window,
                limit_bytes=rng.choice([10**9, 60_000]),
            ) as driver:
                started = run_requests(driver, rng, stems)
                judge([one for one in started if one[0].finish_reason != "error"])
                kv_cache = driver.scheduler.kv_cache
                assert kv_cache.allocator.num_held == 0
                assert kv_cache.allocator.num_cached == kv_cache.tree.num_blocks
                assert driver.runner.num_wrong_states == 0
                driver.runner.jobs.finish()
                # Names are in the size of their folder, which grows by pages.
                lying = sum(disk_bytes(one.stat().st_size) - NAME_BYTES for one in folder.rglob("*"))
                assert lying <= driver.index.stats.used_bytes <= driver.index.stats.limit_bytes
                num_found += driver.scheduler.counters.disk_cache_hits
                num_lost += driver.runner.num_failed
            damage(folder, rng)
    assert num_found > 0
    print(f"{num_found} tokens from disk, {num_lost} files could not be read")


def run_requests(
    driver: DiskDriver, rng: random.Random, stems: list[list[int]]
) -> list[tuple[Sequence, list[int], int]]:
    started: list[tuple[Sequence, list[int], int]] = []
    for _ in range(10):
        prompt = rng.choice(stems)[: rng.choice([250, rng.randint(1, 250)])]
        prompt = prompt + prompt_of(rng.randint(0, 3), rng.randint(0, 50))
        count = rng.randint(1, 60)
        marks = (len(prompt) // 2, len(prompt) - 3)
        wanted = Request(prompt, request([1]).sampling, count, checkpoints=marks)
        started.append((driver.scheduler.add(wanted), prompt, count))
        for _ in range(rng.choice([0, 0, 2, 9])):
            driver.step_or_recover()
        if rng.random() < 0.2:
            driver.scheduler.end(rng.choice(started)[0], "abort")
        if rng.random() < 0.05:
            driver.scheduler.reset_prefix_cache()
    driver.finish(recovers=True)
    return started


def damage(folder: Path, rng: random.Random) -> None:
    """Change, cut or remove some files."""
    for file in folder.rglob("*.*"):
        if file.suffix in (".kv", ".state") and rng.random() < 0.1:
            content = bytearray(file.read_bytes())
            if rng.random() < 0.3:
                file.unlink()
            elif rng.random() < 0.5:
                file.write_bytes(content[: rng.randrange(len(content))])
            else:
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
                file.write_bytes(content)
