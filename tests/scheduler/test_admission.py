import gc

import pytest

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.scheduler.sequence import Sequence, SequenceStatus

from .driver import Driver, prompt_of, request
from .oracle import spell


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


def test_a_sequence_does_not_keep_those_that_computed_its_prefix() -> None:
    """Each kept the one that it had waited for, with all of its tokens, and so on without end."""
    driver = Driver(num_blocks=128)
    sequence = driver.scheduler.add(request(prompt_of(1, 320)))
    for length in range(640, 2560, 320):
        driver.step()
        sequence = driver.scheduler.add(request(prompt_of(1, length)))
    driver.step()
    assert driver.scheduler.counters.prefix_waits > 3
    driver.finish()
    gc.collect()
    alive = [one for one in gc.get_objects() if isinstance(one, Sequence)]
    assert [one for one in alive if one.tokens[:32] == sequence.tokens[:32]] == [sequence]


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
