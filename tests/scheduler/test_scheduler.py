import random

import pytest

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.engine.step import NOT_A_NUMBER, StepResult
from pensieve.scheduler.config import SchedulerConfig
from pensieve.scheduler.sequence import Sequence

from ..budget import trials
from .driver import Driver, prompt_of, request
from .oracle import spell


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


def test_steps_are_counted_by_what_they_compute() -> None:
    driver = Driver(lag=1)
    driver.scheduler.add(request(prompt_of(1, 100), max_tokens=60))
    for _ in range(5):
        driver.step()
    driver.scheduler.add(request(prompt_of(2, 100), max_tokens=3))
    driver.finish()
    plans, counters = driver.runner.plans, driver.scheduler.counters
    kinds = [(bool(plan.decode), bool(plan.prefill)) for plan in plans]
    assert counters.decode_steps == kinds.count((True, False)) > 30
    assert counters.prefill_steps == kinds.count((False, True)) > 0
    assert counters.mixed_steps == kinds.count((True, True)) > 0
    assert counters.decode_steps + counters.prefill_steps + counters.mixed_steps == counters.steps


@pytest.mark.parametrize("lag", [0, 1])
def test_a_second_turn_computes_only_what_is_new(lag: int) -> None:
    driver = Driver(lag=lag)
    first = driver.scheduler.add(request(prompt_of(1, 400), max_tokens=20))
    driver.finish()
    computed = driver.scheduler.counters.computed_tokens
    second = driver.scheduler.add(request([*first.tokens, 7, 8, 9], max_tokens=5))
    driver.finish()
    assert driver.scheduler.counters.computed_tokens - computed < 2 * BLOCK_SIZE
    assert second.num_cached_tokens == len(first.tokens) // BLOCK_SIZE * BLOCK_SIZE
    assert second.tokens == spell([*first.tokens, 7, 8, 9], 5)


@pytest.mark.parametrize("lag", [0, 1])
def test_the_context_limit_ends_a_sequence(lag: int) -> None:
    """One step ahead, a row was once planned whose sample the context had no room for."""
    driver = Driver(num_blocks=4, lag=lag)
    sequence = driver.scheduler.add(request(prompt_of(1, 100), max_tokens=1000))
    driver.finish()
    assert len(sequence.tokens) == driver.scheduler.max_context == 4 * BLOCK_SIZE
    assert sequence.finish_reason == "length"
    assert sum(len(plan.decode) for plan in driver.runner.plans) == 4 * BLOCK_SIZE - 100


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
    for seed in range(trials(60, 150)):
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
        assert driver.scheduler.kv_cache.allocator.num_held == 0
        assert driver.scheduler.kv_cache.allocator.num_cached == driver.scheduler.kv_cache.tree.num_blocks


@pytest.mark.parametrize("lag", [0, 1])
def test_cancelling_at_random_points_returns_everything(lag: int) -> None:
    driver, rng = Driver(num_blocks=200, lag=lag), random.Random(1)
    for i in range(200):
        sequence = driver.scheduler.add(request(prompt_of(i % 7, rng.randint(1, 300)), max_tokens=20))
        for _ in range(rng.randint(0, 8)):
            driver.step()
        driver.scheduler.end(sequence, "abort")
    driver.finish()
    driver.scheduler.kv_cache.tree.clear()
    assert driver.scheduler.kv_cache.allocator.num_free == 200


def test_a_sequence_whose_logits_are_not_numbers_ends_with_an_error() -> None:
    driver = Driver()
    sequence = driver.scheduler.add(request([1]))
    other = driver.scheduler.add(request([2]))
    driver.step()  # a prompt of one token has nothing to prefill, so admission and decode are two steps
    plan = driver.scheduler.schedule()
    assert plan is not None
    driver.scheduler.update(StepResult(plan.step_id, {sequence.seq_id: NOT_A_NUMBER, other.seq_id: 5}))
    assert sequence.finish_reason == "error"
    assert other.finish_reason is None


def test_a_result_from_before_a_preemption_commits_nothing() -> None:
    """Its KV lies in freed blocks; the KV in the sequence's new blocks is still to be written."""
    driver = Driver()
    sequence = driver.scheduler.add(request(prompt_of(1, 300)))
    first = driver.scheduler.schedule()
    driver.scheduler.queues.requeue(sequence)
    second = driver.scheduler.schedule()
    assert first is not None
    assert second is not None
    driver.take(driver.runner.step(first))
    assert sequence.num_computed_tokens == 64
    assert sequence.num_committed_tokens == 0
    driver.take(driver.runner.step(second))
    driver.finish()
    assert sequence.tokens == spell(prompt_of(1, 300), 4)


def test_a_step_has_the_devices_tokens_unless_the_user_sets_them() -> None:
    assert SchedulerConfig().with_step_tokens(2048).step_tokens == 2048
    assert SchedulerConfig(step_tokens=300).with_step_tokens(2048).step_tokens == 300
    assert SchedulerConfig(max_batch=4000).with_step_tokens(2048).step_tokens == 8000
