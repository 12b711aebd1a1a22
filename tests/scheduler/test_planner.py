import pytest

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.engine.step import SamplingParams
from pensieve.scheduler.sequence import Request, SequenceStatus

from .driver import Driver, prompt_of, request
from .oracle import spell


def test_a_long_prompt_is_prefilled_in_slices_between_decode_steps() -> None:
    driver = Driver()
    short = driver.scheduler.add(request([1], max_tokens=50))
    driver.step()
    driver.scheduler.add(request(prompt_of(2, 600), max_tokens=1))
    for _ in range(9):
        plan = driver.step()
        assert plan is not None
        assert [row.seq_id for row in plan.decode] == [short.seq_id]
        assert plan.num_tokens == 1 + 60  # the length below 63 of those that slices have


def test_a_short_prompt_does_not_wait_behind_a_long_one() -> None:
    driver = Driver()
    driver.scheduler.add(request(prompt_of(1, 1500), max_tokens=1))
    driver.step()
    short = driver.scheduler.add(request(prompt_of(2, 30), max_tokens=1))
    for _ in range(3):  # at most one of the long one's, its own, and its last token's
        driver.step()
    assert short.finish_reason == "length"


def test_the_oldest_prefill_always_advances() -> None:
    driver = Driver(num_blocks=256)
    oldest = driver.scheduler.add(request(prompt_of(1, 1000), max_tokens=1))
    driver.step()
    for i in range(12):
        for j in range(3):
            driver.scheduler.add(request(prompt_of(100 + 3 * i + j, 60), max_tokens=1))
        before = oldest.num_computed_tokens
        driver.step()
        driver.step()
        assert oldest.num_computed_tokens - before >= 12


@pytest.mark.parametrize("lag", [0, 1])
def test_sequences_that_outgrow_memory_are_preempted_and_lose_nothing(lag: int) -> None:
    driver = Driver(num_blocks=10, lag=lag)
    sequences = [driver.scheduler.add(request(prompt_of(i, 40), max_tokens=150)) for i in range(4)]
    driver.finish()
    assert driver.scheduler.counters.preemptions > 0
    for i, sequence in enumerate(sequences):
        assert sequence.tokens == spell(prompt_of(i, 40), 150)


@pytest.mark.parametrize("lag", [0, 1])
def test_preempted_prompts_of_one_token_wait_without_blocks(lag: int) -> None:
    """Nothing is left to prefill in them, so that a plan once decoded one that was waiting."""
    driver = Driver(num_blocks=6, lag=lag)
    sequences = [driver.scheduler.add(request([i], max_tokens=100)) for i in range(6)]
    for _ in range(3000):
        driver.step()
        assert not any(sequence.block_table.blocks for sequence in driver.scheduler.queues.waiting)
    assert driver.scheduler.counters.preemptions > 0
    for i, sequence in enumerate(sequences):
        assert sequence.tokens == spell([i], 100)


def test_a_slice_of_a_sequence_that_is_preempted_later_in_the_step_is_taken_out() -> None:
    """The shortest prompt is planned before the one that takes its blocks."""
    driver = Driver(num_blocks=256, step_tokens=1200)
    prompts = [prompt_of(i, length) for i, length in enumerate([3000, 1400, 60])]
    oldest, long = (driver.scheduler.add(request(prompt)) for prompt in prompts[:2])
    driver.step()
    short = driver.scheduler.add(request(prompts[2]))
    driver.step()  # the oldest's turn: the short one only gets its place
    allocator = driver.scheduler.kv_cache.allocator
    num_missing = (128 + 1024) // BLOCK_SIZE - len(long.block_table.blocks)
    others = allocator.allocate(allocator.num_free - num_missing)
    plan = driver.scheduler.schedule()
    allocator.release(others)
    assert plan is not None
    assert [chunk.seq_id for chunk in plan.prefill] == [long.seq_id]
    assert (short.status, driver.scheduler.counters.preemptions) == (SequenceStatus.WAITING, 1)
    driver.take(driver.runner.step(plan))
    driver.finish()
    assert [oldest.tokens, long.tokens, short.tokens] == [spell(prompt, 4) for prompt in prompts]


def test_what_cannot_be_evicted_keeps_no_other_sequence_from_its_slices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A prompt that fits only with what counts as available was admitted and preempted, for ever."""
    driver = Driver(num_blocks=100)
    prefix, prompts = prompt_of(1, 20 * BLOCK_SIZE), [prompt_of(i, 30 * BLOCK_SIZE) for i in (2, 3)]
    twin = driver.scheduler.add(request(prefix, max_tokens=40))
    while twin.is_prefilling:
        driver.step()
    tree = driver.scheduler.kv_cache.tree
    nothing = tree.match([0])
    with monkeypatch.context() as patch:
        patch.setattr(tree, "match", lambda *_: nothing)  # so that it computes the prefix a second time
        holder = driver.scheduler.add(request(prefix + prompt_of(9, 2 * BLOCK_SIZE), max_tokens=120))
        driver.step()
    while holder.is_prefilling or twin.finish_reason is None:
        driver.step()
    long = driver.scheduler.add(request(prompts[0], max_tokens=400))
    driver.step()
    large = driver.scheduler.add(request(prompts[1]))
    while holder.finish_reason is None:
        driver.step()
    assert driver.scheduler.counters.preemptions == 1
    assert not large.block_table.blocks
    for _ in range(20):
        driver.step()
    assert large.finish_reason
    assert not long.finish_reason
    driver.finish()
    assert [one.tokens for one in (long, large)] == [spell(prompts[0], 400), spell(prompts[1], 4)]


@pytest.mark.parametrize(("num_slots", "within"), [(20, [[64, 160]]), (3, [[64], []])])
def test_a_slice_leaves_states_within_itself_while_slots_are_promised_to_nobody(
    num_slots: int, within: list[list[int]]
) -> None:
    """Two slots are promised to the sequence; where another one is missing, the slice ends at the state."""
    driver = Driver(lag=1, step_tokens=2048, num_state_slots=num_slots)
    driver.scheduler.add(request(prompt_of(2, 60)))  # the time of longer slices is known then
    driver.finish()
    driver.runner.plans.clear()
    prompt = prompt_of(1, 190)
    sequence = driver.scheduler.add(Request(prompt, SamplingParams(), 4, checkpoints=(64, 170)))
    driver.finish()
    states = [chunk.state for plan in driver.runner.plans for chunk in plan.prefill]
    assert [[tokens for tokens, _ in state.within] for state in states if state is not None] == within
    assert sequence.tokens == spell(prompt, 4)
    assert driver.runner.num_wrong_states == 0
