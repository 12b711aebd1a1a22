import random

import pytest
from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.engine.step import NOT_A_NUMBER, SamplingParams, StepFailed, StepPlan, StepResult
from pensieve.scheduler.config import SchedulerConfig
from pensieve.scheduler.scheduler import Scheduler
from pensieve.scheduler.sequence import Request, Sequence, SequenceStatus

from .oracle import OracleRunner, spell


def request(prompt: list[int], max_tokens: int = 4, stop: set[int] | None = None) -> Request:
    return Request(prompt, SamplingParams(), max_tokens, frozenset(stop or ()))


class Driver:
    """Steps a scheduler over an oracle and checks the block accounting after every step."""

    def __init__(self, num_blocks: int = 64, lag: int = 0, max_batch: int = 8, step_tokens: int = 64) -> None:
        self.scheduler = Scheduler(SchedulerConfig(max_batch, step_tokens), num_blocks, max_context=100_000)
        self.runner = OracleRunner(num_blocks * BLOCK_SIZE, lag)

    def step(self) -> StepPlan | None:
        plan = self.scheduler.schedule()
        result = self.runner.drain() if plan is None else self.runner.step(plan)
        if result is not None:
            self.scheduler.update(result)
        allocator = self.scheduler.memory.allocator
        held = {block for sequence in self.scheduler.roster.running for block in sequence.table.blocks}
        assert allocator.num_held == len(held)
        return plan

    def finish(self) -> None:
        for _ in range(100_000):
            if not self.scheduler.has_work:
                return
            self.step()
        raise AssertionError("no progress")


def prompt_of(seed: int, length: int) -> list[int]:
    return [random.Random(seed * 1000 + i).randrange(1000) for i in range(length)]


@pytest.mark.parametrize("lag", [0, 1])
def test_a_request_runs_to_its_limit(lag: int) -> None:
    driver = Driver(lag=lag)
    sequence = driver.scheduler.add(request(prompt_of(1, 100), max_tokens=40))
    driver.finish()
    assert sequence.tokens == spell(prompt_of(1, 100), 40)
    assert sequence.finish_reason == "length"


@pytest.mark.parametrize("lag", [0, 1])
def test_a_stop_token_ends_a_sequence_and_is_left_out(lag: int) -> None:
    driver = Driver(lag=lag)
    expected = spell([5, 6], 30)
    sequence = driver.scheduler.add(request([5, 6], max_tokens=100, stop={expected[12]}))
    driver.finish()
    assert sequence.tokens == expected[: expected.index(expected[12])]
    assert sequence.finish_reason == "stop"


def test_a_long_prompt_is_prefilled_in_slices_between_decode_steps() -> None:
    driver = Driver()
    short = driver.scheduler.add(request([1], max_tokens=50))
    driver.step()
    driver.scheduler.add(request(prompt_of(2, 600), max_tokens=1))
    driver.step()  # a small slice, to learn what it takes
    for _ in range(9):
        plan = driver.step()
        assert plan is not None
        assert [row.seq_id for row in plan.decode] == [short.seq_id]
        assert plan.num_tokens == 64


def test_a_short_prompt_does_not_wait_behind_a_long_one() -> None:
    driver = Driver()
    driver.scheduler.add(request(prompt_of(1, 1500), max_tokens=1))
    driver.step()
    short = driver.scheduler.add(request(prompt_of(2, 30), max_tokens=1))
    driver.step()
    driver.step()
    assert short.finish_reason == "length"


def test_the_oldest_prefill_always_advances() -> None:
    driver = Driver(num_blocks=256)
    oldest = driver.scheduler.add(request(prompt_of(1, 1000), max_tokens=1))
    driver.step()
    for i in range(25):
        for j in range(3):
            driver.scheduler.add(request(prompt_of(100 + 3 * i + j, 60), max_tokens=1))
        before = oldest.num_computed
        driver.step()
        assert oldest.num_computed - before >= min(12, 999 - before)


@pytest.mark.parametrize("lag", [0, 1])
def test_a_second_turn_computes_only_what_is_new(lag: int) -> None:
    driver = Driver(lag=lag)
    first = driver.scheduler.add(request(prompt_of(1, 400), max_tokens=20))
    driver.finish()
    computed = driver.scheduler.counters.computed_tokens
    second = driver.scheduler.add(request([*first.tokens, 7, 8, 9], max_tokens=5))
    driver.finish()
    assert driver.scheduler.counters.computed_tokens - computed < 2 * BLOCK_SIZE
    assert second.num_cached == len(first.tokens) // BLOCK_SIZE * BLOCK_SIZE
    assert second.tokens == spell([*first.tokens, 7, 8, 9], 5)


@pytest.mark.parametrize("lag", [0, 1])
def test_identical_cold_prefixes_that_arrive_together_are_computed_once(lag: int) -> None:
    driver = Driver(num_blocks=128, lag=lag)
    shared = prompt_of(1, 640)
    sequences = [driver.scheduler.add(request(shared + prompt_of(2 + i, 40))) for i in range(5)]
    driver.finish()
    assert driver.scheduler.counters.computed_tokens <= 640 + 5 * (40 + BLOCK_SIZE)
    assert driver.scheduler.counters.prefix_waits == 4
    for i, sequence in enumerate(sequences):
        assert sequence.tokens == spell(shared + prompt_of(2 + i, 40), 4)


def test_a_waiter_goes_on_alone_when_its_producer_is_cancelled() -> None:
    driver = Driver(num_blocks=128)
    shared = prompt_of(1, 640)
    producer = driver.scheduler.add(request([*shared, 1]))
    waiter = driver.scheduler.add(request([*shared, 2]))
    driver.step()
    assert waiter.status is SequenceStatus.WAITING
    driver.scheduler.end(producer, "abort")
    driver.finish()
    assert waiter.tokens == spell([*shared, 2], 4)


@pytest.mark.parametrize("lag", [0, 1])
def test_sequences_that_outgrow_memory_are_preempted_and_lose_nothing(lag: int) -> None:
    driver = Driver(num_blocks=10, lag=lag)
    sequences = [driver.scheduler.add(request(prompt_of(i, 40), max_tokens=150)) for i in range(4)]
    driver.finish()
    assert driver.scheduler.counters.preemptions > 0
    for i, sequence in enumerate(sequences):
        assert sequence.tokens == spell(prompt_of(i, 40), 150)


def test_the_context_limit_ends_a_sequence() -> None:
    driver = Driver(num_blocks=4)
    sequence = driver.scheduler.add(request(prompt_of(1, 100), max_tokens=1000))
    driver.finish()
    assert len(sequence.tokens) == driver.scheduler.max_context == 4 * BLOCK_SIZE
    assert sequence.finish_reason == "length"


def test_a_sequence_can_be_ended_twice() -> None:
    driver = Driver()
    sequence = driver.scheduler.add(request([1]))
    driver.scheduler.end(sequence, "abort")
    driver.scheduler.end(sequence, "error")
    assert sequence.finish_reason == "abort"
    assert not driver.scheduler.has_work


@pytest.mark.parametrize("lag", [0, 1])
def test_random_schedules_give_every_sequence_its_own_tokens(lag: int) -> None:
    """Arrivals, shared prefixes, cancellations and preemptions at random, thousands of steps."""
    for seed in range(150):
        rng = random.Random(seed)
        driver = Driver(num_blocks=rng.choice([12, 30, 100]), lag=lag, max_batch=rng.choice([1, 3, 8]))
        stems = [prompt_of(seed * 10 + i, rng.randint(1, 150)) for i in range(3)]
        started: list[tuple[Sequence, list[int], int]] = []
        for _ in range(12):
            prompt = rng.choice(stems)[: rng.randint(1, 150)] + prompt_of(
                rng.randint(0, 3), rng.randint(0, 70)
            )
            count = rng.randint(1, 80)
            started.append((driver.scheduler.add(request(prompt, count)), prompt, count))
            for _ in range(rng.choice([0, 0, 2, 9])):
                driver.step()
            if rng.random() < 0.3:
                driver.scheduler.end(rng.choice(started)[0], "abort")
        driver.finish()
        for sequence, prompt, count in started:
            expected = spell(prompt, count)
            if sequence.finish_reason == "length":
                assert sequence.tokens == expected
            else:
                assert sequence.tokens == expected[: len(sequence.tokens)]
        assert driver.scheduler.memory.allocator.num_held == 0
        assert driver.scheduler.memory.allocator.num_cached == driver.scheduler.memory.tree.num_blocks


@pytest.mark.parametrize("lag", [0, 1])
def test_preempted_prompts_of_one_token_wait_without_blocks(lag: int) -> None:
    """Nothing is left to prefill in them, so that a plan once decoded one that was waiting."""
    driver = Driver(num_blocks=6, lag=lag)
    sequences = [driver.scheduler.add(request([i], max_tokens=100)) for i in range(6)]
    for _ in range(3000):
        driver.step()
        assert not any(sequence.table.blocks for sequence in driver.scheduler.roster.waiting)
    assert driver.scheduler.counters.preemptions > 0
    for i, sequence in enumerate(sequences):
        assert sequence.tokens == spell([i], 100)


def test_many_long_prompts_that_share_cost_a_step_little() -> None:
    """Only a few of those that wait are looked up in one step; all of them still share one computation."""
    driver = Driver(num_blocks=2000, max_batch=32, step_tokens=8192)
    shared = prompt_of(1, 30_000)
    sequences = [driver.scheduler.add(request([*shared, i], max_tokens=2)) for i in range(40)]
    driver.finish()
    assert driver.scheduler.counters.computed_tokens <= 30_000 + 40 * BLOCK_SIZE
    assert driver.scheduler.counters.prefix_waits <= 40
    for i, sequence in enumerate(sequences[:3]):
        assert sequence.tokens == spell([*shared, i], 2)


@pytest.mark.parametrize("lag", [0, 1])
def test_cancelling_at_random_points_returns_everything(lag: int) -> None:
    driver, rng = Driver(num_blocks=200, lag=lag), random.Random(1)
    for i in range(200):
        sequence = driver.scheduler.add(request(prompt_of(i % 7, rng.randint(1, 300)), max_tokens=20))
        for _ in range(rng.randint(0, 8)):
            driver.step()
        driver.scheduler.end(sequence, "abort")
    driver.finish()
    driver.scheduler.memory.tree.clear()
    assert driver.scheduler.memory.allocator.num_free == 200


def run_with_faults(driver: Driver) -> None:
    """Step to the end, letting the scheduler recover from each failed step."""
    for _ in range(10_000):
        if not driver.scheduler.has_work:
            return
        try:
            driver.step()
        except StepFailed:
            driver.scheduler.fail()
    raise AssertionError("no progress")


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("position", [10, 41, 55])
def test_a_step_that_fails_costs_its_culprit_alone(lag: int, position: int) -> None:
    driver = Driver(num_blocks=100, lag=lag)
    sequences = [driver.scheduler.add(request(prompt_of(i, 40), max_tokens=30)) for i in range(6)]
    bad = sequences[3].seq_id

    def breaks(plan: StepPlan) -> bool:
        reached = any(row.seq_id == bad and row.position >= position for row in plan.decode)
        return reached or any(c.seq_id == bad and c.start + len(c.tokens) > position for c in plan.prefill)

    driver.runner = OracleRunner(100 * BLOCK_SIZE, lag, breaks)
    run_with_faults(driver)
    for i, sequence in enumerate(sequences):
        if sequence.seq_id == bad:
            assert sequence.finish_reason == "error"
        else:
            assert sequence.tokens == spell(prompt_of(i, 40), 30)


def test_a_fault_that_passes_costs_nobody_in_company() -> None:
    driver = Driver(num_blocks=100)
    sequences = [driver.scheduler.add(request(prompt_of(i, 40), max_tokens=30)) for i in range(4)]
    driver.runner = OracleRunner(100 * BLOCK_SIZE, 0, lambda plan: plan.step_id == 9)
    run_with_faults(driver)
    for i, sequence in enumerate(sequences):
        assert sequence.tokens == spell(prompt_of(i, 40), 30)


def test_a_sequence_whose_logits_are_not_numbers_ends_with_an_error() -> None:
    driver = Driver()
    sequence = driver.scheduler.add(request([1]))
    other = driver.scheduler.add(request([2]))
    driver.step()  # a prompt of one token has nothing to prefill, so admission and decode are two steps
    plan = driver.scheduler.schedule()
    assert plan is not None
    driver.scheduler.update(StepResult(plan.step_id, {sequence.seq_id: NOT_A_NUMBER, other.seq_id: 5}, 0.0))
    assert sequence.finish_reason == "error"
    assert other.finish_reason is None
