"""States and windows: each row reads its own, nothing leaks, and little is computed twice."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.engine.served_model import WindowPool
from pensieve.engine.step import NOT_A_NUMBER, SamplingParams, StepPlan, StepResult
from pensieve.scheduler.sequence import Request, Sequence

from ..budget import sampled, trials
from .driver import Driver, prompt_of, request
from .oracle import OracleRunner, spell
from .residues import Residues
from .test_constraint import spell_within


class Conversation:
    """A session that asks one thing after another.

    drops_thoughts: the next prompt holds only the second half of each answer, as templates leave out
    the thoughts of earlier answers.
    """

    def __init__(self, driver: Driver, head: list[int], drops_thoughts: bool = False) -> None:
        self.driver = driver
        self.head = len(head)
        self.tokens = list(head)
        self.drops_thoughts = drops_thoughts

    def ask(self, question: list[int]) -> Sequence:
        """Queue a request whose prompt ends with the header of an answer."""
        start, end = len(self.tokens), len(self.tokens) + len(question)
        prompt, marks = [*self.tokens, *question, 1, 2, 3], (self.head, start, end)
        return self.driver.scheduler.add(Request(prompt, SamplingParams(), 70, checkpoints=marks))

    def turn(self, question: list[int]) -> int:
        """Ask, take the answer, and return how many tokens were computed."""
        before = self.driver.scheduler.counters.computed_tokens
        sequence = self.ask(question)
        self.driver.finish()
        prompt, answer = sequence.request.prompt, sequence.tokens[sequence.num_prompt_tokens :]
        if self.drops_thoughts:
            prompt, answer = [*prompt[:-1], 4], answer[len(answer) // 2 :]
        self.tokens = [*prompt, *answer, 5]
        return self.driver.scheduler.counters.computed_tokens - before


def tokens_of(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(1000), k=length)


@pytest.mark.parametrize("drops_thoughts", [False, True])
def test_a_second_turn_on_a_long_history_computes_little_more_than_itself(drops_thoughts: bool) -> None:
    driver = Driver(num_blocks=2000, lag=1, step_tokens=2048, num_state_slots=20)
    conversation = Conversation(driver, tokens_of(1, 20_000), drops_thoughts)
    conversation.turn(tokens_of(2, 300))
    assert conversation.turn(tokens_of(3, 200)) <= 300


@pytest.mark.parametrize("drops_thoughts", sampled([False, True], [True]))
def test_a_long_conversation_keeps_eight_states_and_computes_each_turn_once(drops_thoughts: bool) -> None:
    """20 turns, 60,000 tokens, with questions from 60 to 6,000 tokens."""
    driver = Driver(num_blocks=4000, lag=1, step_tokens=2048, num_state_slots=60)
    conversation = Conversation(driver, tokens_of(1, 18_000), drops_thoughts)
    states = driver.scheduler.kv_cache.states
    for number in range(20):
        length = (60, 400, 2000, 6000)[number % 4]
        num_computed = conversation.turn(tokens_of(number, length))
        assert len(states.checkpoints) <= 8
        if number:
            assert num_computed <= length + 150
    assert len(conversation.tokens) > 59_000
    assert 18_000 // BLOCK_SIZE * BLOCK_SIZE in {one.num_tokens for one in states.checkpoints}
    assert driver.runner.num_wrong_states == 0


def test_a_question_after_many_tool_calls_begins_where_the_thoughts_between_are_left_out() -> None:
    """Templates keep the thoughts of answers since the last question; the next one comes without them."""
    driver = Driver(num_blocks=2000, lag=1, step_tokens=2048, num_state_slots=20)
    head, question = tokens_of(1, 5000), tokens_of(2, 300)
    tokens, plain = [*head, *question], [*head, *question]
    for number in range(15):
        marks = (len(head), len(head) + len(question), len(tokens))
        sequence = driver.scheduler.add(Request([*tokens, 1], SamplingParams(), 90, checkpoints=marks))
        driver.finish()
        result = tokens_of(10 + number, 400)
        tokens = [*sequence.tokens, *result]
        plain += [*sequence.tokens[-40:], *result]
    last = driver.scheduler.add(request([*plain, *tokens_of(3, 100)]))
    driver.finish()
    assert last.num_cached_tokens == 5300 // BLOCK_SIZE * BLOCK_SIZE


@pytest.mark.parametrize("lag", [0, 1])
def test_the_head_of_sixteen_sessions_is_computed_once_and_its_state_held_once(lag: int) -> None:
    driver = Driver(num_blocks=4000, lag=lag, max_batch=16, step_tokens=2048, num_state_slots=64)
    head = tokens_of(1, 5000)
    sequences = [Conversation(driver, head).ask(tokens_of(2 + i, 300)) for i in range(16)]
    driver.finish()
    assert driver.scheduler.counters.computed_tokens <= 5000 + 16 * (300 + BLOCK_SIZE)
    checkpoints = driver.scheduler.kv_cache.states.checkpoints
    assert sum(one.num_tokens <= 5000 for one in checkpoints) == 2  # with the one at 4096
    assert sum(one.num_uses for one in checkpoints) == 15
    for sequence in sequences:
        check(sequence)


def test_a_running_sequence_is_asked_for_a_checkpoint_where_others_branch_off() -> None:
    """No request names that place."""
    driver = Driver(num_blocks=400, num_state_slots=20)
    shared = tokens_of(1, 1500)
    sequences = [driver.scheduler.add(request(shared + tokens_of(2 + i, 900))) for i in range(5)]
    driver.finish()
    assert driver.scheduler.counters.computed_tokens <= 1500 + 5 * (900 + BLOCK_SIZE)
    for sequence in sequences:
        check(sequence)


def test_a_sequence_that_comes_too_late_to_ask_leaves_that_checkpoint_itself() -> None:
    driver = Driver(num_blocks=400, num_state_slots=20)
    shared = tokens_of(1, 1500)
    first = Request(shared + tokens_of(2, 900), SamplingParams(), 4, checkpoints=(640,))
    producer = driver.scheduler.add(first)
    while producer.num_computed_tokens <= 1500:
        driver.step()
    second = driver.scheduler.add(request(shared + tokens_of(3, 900)))
    driver.finish()
    third = driver.scheduler.add(request(shared + tokens_of(4, 900)))
    driver.finish()
    assert (second.num_cached_tokens, third.num_cached_tokens) == (640, 1500 // BLOCK_SIZE * BLOCK_SIZE)
    check(second)
    check(third)


def test_where_prompts_have_diverged_once_the_next_one_begins() -> None:
    """As after an edit or a compaction: the first one computes anew from the last checkpoint before."""
    driver = Driver(num_blocks=2000, lag=1, step_tokens=2048, num_state_slots=20)
    conversation = Conversation(driver, tokens_of(1, 3000))
    for number in range(3):
        conversation.turn(tokens_of(10 + number, 3000))
    edited = []
    for number in range(3):
        edited.append(driver.scheduler.add(request(conversation.tokens[:8000] + tokens_of(number, 100))))
        driver.finish()
        check(edited[-1])
    cached = [sequence.num_cached_tokens or 0 for sequence in edited]
    assert 3000 < cached[0] < 7900
    assert cached[1:] == [8000, 8000]


def test_few_slots_limit_how_many_sequences_run_and_none_is_preempted() -> None:
    driver = Driver(num_blocks=400, lag=1, num_state_slots=7)
    requests = [Request(tokens_of(i, 100), SamplingParams(), 60, constraint=Residues(1)) for i in range(3)]
    sequences = [driver.scheduler.add(one) for one in [*requests, request(tokens_of(5, 50), 60)]]
    most = 0
    while driver.scheduler.has_work:
        driver.step()
        most = max(most, len(driver.scheduler.running))
    assert (most, driver.scheduler.counters.preemptions) == (2, 0)
    for sequence in sequences:
        check(sequence)


@pytest.mark.parametrize("end", ["length", "stop", "abort", "preempted"])
@pytest.mark.parametrize("lag", [0, 1])
def test_however_an_answer_ends_its_last_full_block_can_be_gone_on_from(end: str, lag: int) -> None:
    driver = Driver(num_blocks=100, lag=lag, num_state_slots=10)
    whole = spell(tokens_of(1, 100), 200)
    stop = next(token for i, token in enumerate(whole) if i > 240 and token not in whole[100:i])
    sequence = driver.scheduler.add(request(whole[:100], 150, {stop} if end == "stop" else None))
    while len(sequence.tokens) < 240:
        driver.step()
    if end == "abort":
        driver.scheduler.end(sequence, "abort")
    elif end == "preempted":
        driver.scheduler.queues.requeue(sequence)
    elif end in ("length", "stop"):
        driver.finish()
        assert sequence.finish_reason == end
    following = driver.scheduler.add(request(whole, 4))
    driver.step()
    assert following.num_cached_tokens == 224
    driver.finish()
    check(following)
    check(sequence)


def test_a_state_that_may_hold_no_numbers_is_not_kept() -> None:
    driver = Driver(num_state_slots=10)
    sequence = driver.scheduler.add(request(tokens_of(1, 100), 200))
    while len(sequence.tokens) < 200:
        driver.step()
    plan = driver.scheduler.schedule()
    assert plan is not None
    driver.scheduler.update(StepResult(plan.step_id, {sequence.seq_id: NOT_A_NUMBER}))
    states = driver.scheduler.kv_cache.states
    assert (len(states.checkpoints), states.slots.num_free) == (0, 10)


def test_a_long_conversation_keeps_no_more_than_its_windows() -> None:
    """Of 24,000 tokens, layers with a window keep those that the conversation's checkpoints need."""
    window = WindowPool(128, num_blocks=200, slice_tokens=1024, max_running=2)
    driver = Driver(num_blocks=2000, lag=1, step_tokens=2048, window=window)
    conversation = Conversation(driver, tokens_of(1, 20_000), drops_thoughts=True)
    allocator = driver.scheduler.kv_cache.states.windows.allocator
    for number in range(8):
        num_computed = conversation.turn(tokens_of(number, 500))
        assert number == 0 or num_computed <= 650
        assert allocator.num_cached <= 8 * window.state_blocks
        assert allocator.num_held == 0


def test_few_blocks_of_windows_limit_how_many_sequences_run_and_none_is_preempted() -> None:
    window = WindowPool(64, num_blocks=17, slice_tokens=64, max_running=3)
    driver, most = Driver(num_blocks=400, lag=1, window=window), 0
    for seed in range(6):
        driver.scheduler.add(request(prompt_of(seed, 300), max_tokens=40))
    while driver.scheduler.has_work:
        driver.step()
        most = max(most, len(driver.scheduler.running))
    assert (most, driver.scheduler.counters.preemptions) == (3, 0)


def random_request(rng: random.Random, histories: list[list[int]]) -> Request:
    """Continue, edit or branch off an earlier conversation."""
    base = rng.choice(histories)
    kept = base[: rng.choice([len(base), len(base), rng.randint(1, len(base))])]
    prompt = (kept + prompt_of(rng.randint(0, 3), rng.choice([1, 31, 32, 33, rng.randint(1, 200)])))[:700]
    marks = tuple(rng.randint(0, len(prompt)) for _ in range(rng.randint(0, 3)))
    constraint = Residues(1) if rng.random() < 0.3 else None
    return Request(prompt, SamplingParams(), rng.randint(1, 90), constraint=constraint, checkpoints=marks)


def check(sequence: Sequence) -> None:
    """The tokens are those of the model, as far as the sequence went."""
    prompt, count = sequence.request.prompt, len(sequence.tokens) - sequence.num_prompt_tokens
    constraint = sequence.request.constraint
    assert sequence.tokens == (spell(prompt, count) if constraint is None else spell_within(prompt, count, 1))


def random_window(rng: random.Random) -> WindowPool:
    """A pool with room for a sequence, or for several and some checkpoints."""
    size, slice_tokens = rng.choice([1, 7, 32, 33, 64, 100, 256]), rng.choice([9, 40, 64, 500])
    least = WindowPool(size, 0, slice_tokens, max_running=rng.choice([1, 2, 5]))
    return replace(least, num_blocks=least.promised_blocks + rng.choice([0, 0, 4, 200]))


def run_tree(seed: int, lag: int) -> Counter[str]:
    """Run one random conversation tree with little memory, and steps that fail; say what happened."""
    rng = random.Random(seed)
    num_blocks, num_slots = rng.choice([30, 60, 400]), rng.choice([3, 4, 7, 20, 60])
    window = None
    if rng.random() < 0.6:
        window = random_window(rng)
        num_slots = rng.choice([0, 0, num_slots])
    step_tokens = rng.choice([64, 300])
    driver = Driver(num_blocks, lag, rng.choice([1, 3, 8]), step_tokens, num_slots, window)
    failing = {rng.randint(1, 300) for _ in range(rng.choice([0, 0, 2]))}

    def breaks(plan: StepPlan) -> bool:
        return plan.step_id in failing

    driver.runner = runner = OracleRunner(num_blocks * BLOCK_SIZE, lag, breaks, num_slots, window)
    histories, started = [prompt_of(seed, rng.randint(1, 300))], list[Sequence]()
    for _ in range(14):
        started.append(driver.scheduler.add(random_request(rng, histories)))
        for _ in range(rng.choice([0, 0, 3, 30])):
            driver.step_or_recover()
        if rng.random() < 0.2:
            driver.scheduler.end(rng.choice(started), "abort")
        histories += [sequence.tokens for sequence in started if sequence.finish_reason == "length"]
    driver.finish(recovers=True)
    for sequence in started:
        check(sequence)
    states = driver.scheduler.kv_cache.states
    assert (runner.num_wrong_states, states.slots.num_held) == (0, 0)
    assert states.slots.num_cached == (len(states.checkpoints) if num_slots else 0)
    driver.scheduler.kv_cache.reset_prefix_cache()
    assert states.slots.num_free == num_slots
    assert states.windows.allocator.num_free == states.windows.allocator.num_blocks
    counters = driver.scheduler.counters
    return Counter(
        hits=counters.prefix_cache_hits,
        preemptions=counters.preemptions,
        evicted=counters.checkpoints_evicted,
        refused=counters.refused_tokens,
        failed=counters.failed_steps,
    )


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_random_conversation_trees_keep_every_state_apart(lag: int) -> None:
    happened = sum((run_tree(seed, lag) for seed in range(trials(10, 60))), Counter[str]())
    assert min(happened[what] for what in ("hits", "preemptions", "evicted", "failed")) > 0
    assert (happened["refused"] > 10) == (lag > 0)
