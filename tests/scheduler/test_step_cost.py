import math
import random
from collections.abc import Callable

import pytest

from pensieve.scheduler.step_cost import FIRST_TOKENS, GROWTH, StepCost
from pensieve.scheduler.step_kind import RECENT
from pensieve.scheduler.step_load import StepLoad

from ..budget import trials

ALL = "decode slice both"
Seconds = Callable[[StepLoad], float]


def random_load(rng: random.Random, kinds: str = ALL) -> StepLoad:
    kind = rng.choice(kinds.split())
    rows = 0 if kind == "slice" else rng.randint(1, 16)
    load = StepLoad(rows, sum(rng.randint(100, 20_000) for _ in range(rows)))
    for _ in range(0 if kind == "decode" else rng.choice([1, 1, 1, 2, 3])):
        load = load.with_slice(rng.randrange(20_000), rng.randint(16, 2000))
    return load


def random_device(rng: random.Random) -> Seconds:
    """A device whose passes, rows and tokens cost what they like; rows and slices may share a pass."""
    speed = 10 ** rng.uniform(-1, 1)
    decode_s, slice_s = (speed * 10 ** rng.uniform(-2.5, -1) for _ in range(2))
    row_s, token_s = speed * 10 ** rng.uniform(-5, -3.5), speed * 10 ** rng.uniform(-5, -3)
    context_s, pair_s = speed * 10 ** rng.uniform(-9, -7), speed * 10 ** rng.uniform(-9.5, -8)
    is_joint = rng.random() < 0.5

    def seconds(load: StepLoad) -> float:
        passes_s = decode_s * (load.rows > 0) + slice_s * load.slices
        if is_joint:
            passes_s = decode_s if load.rows else slice_s * (load.slices > 0)
        each = load.rows * row_s + load.rows_context * context_s
        return passes_s + each + load.tokens * token_s + load.pairs * pair_s

    return seconds


def learn(
    cost: StepCost, seconds: Seconds, rng: random.Random, steps: int, kinds: str = "decode slice both"
) -> None:
    for _ in range(steps):
        load = random_load(rng, kinds)
        cost.record(load, seconds(load) * rng.lognormvariate(0, 0.05))
        if rng.random() < 0.3:
            cost.predict(load)


def worst_error(
    cost: StepCost, seconds: Seconds, rng: random.Random, kinds: str = "decode slice both"
) -> float:
    """The nine in ten worst relative error over loads that were not learnt."""
    loads = [random_load(rng, kinds) for _ in range(50)]
    return sorted(abs(cost.predict(load) / seconds(load) - 1) for load in loads)[45]


@pytest.mark.parametrize("seed", range(trials(3, 12)))
def test_the_time_of_steps_never_met_is_predicted_on_any_device(seed: int) -> None:
    rng, cost = random.Random(seed), StepCost()
    seconds = random_device(rng)
    learn(cost, seconds, rng, 300)
    assert worst_error(cost, seconds, rng) < 0.2


@pytest.mark.parametrize("seed", range(trials(3, 12)))
def test_steps_that_compile_are_taken_for_accidents(seed: int) -> None:
    rng, cost = random.Random(seed), StepCost()
    seconds = random_device(rng)

    def compiling(load: StepLoad) -> float:
        return seconds(load) * (10 if rng.random() < 0.1 else 1)

    compiled = random_load(rng)
    cost.record(compiled, 10 * seconds(compiled))
    learn(cost, compiling, rng, 300)
    assert worst_error(cost, seconds, rng) < 0.35


@pytest.mark.parametrize("seed", range(trials(3, 12)))
def test_a_machine_that_slows_down_is_believed_after_a_few_steps(seed: int) -> None:
    rng, cost = random.Random(seed), StepCost()
    seconds = random_device(rng)
    learn(cost, seconds, rng, 300)
    learn(cost, lambda load: 3 * seconds(load), rng, RECENT, "both")
    assert worst_error(cost, lambda load: 3 * seconds(load), rng, "both") < 0.4


@pytest.mark.parametrize("seed", range(trials(5, 12)))
def test_a_change_that_several_kinds_of_steps_notice_counts_once(seed: int) -> None:
    """A kind noticed it again in its steps from after the change: predictions were three times too long."""
    rng, cost = random.Random(seed), StepCost()
    seconds = random_device(rng)
    learn(cost, seconds, rng, 300)
    learn(cost, lambda load: 3 * seconds(load), rng, 40)
    assert worst_error(cost, lambda load: 3 * seconds(load), rng) < 0.2


def test_a_long_answer_does_not_make_it_forget_what_prompts_cost() -> None:
    rng, cost = random.Random(1), StepCost()
    seconds = random_device(rng)
    learn(cost, seconds, rng, 300)
    learn(cost, seconds, rng, 3000, "decode")
    assert worst_error(cost, seconds, rng, "slice both") < 0.2


@pytest.mark.parametrize("seed", range(trials(3, 12)))
def test_a_slice_has_as_many_tokens_as_fit_into_the_time(seed: int) -> None:
    rng, cost = random.Random(seed), StepCost()
    seconds = random_device(rng)
    learn(cost, seconds, rng, 300)
    for _ in range(20):
        load, start = random_load(rng), rng.randrange(20_000)
        limit_s = cost.predict(load.with_slice(start, 0)) + 10 ** rng.uniform(-3, 0.5)
        count = cost.tokens_within(load, start, limit_s)
        assert cost.predict(load.with_slice(start, count)) <= limit_s * 1.001
        if count < cost.known_tokens:
            assert cost.predict(load.with_slice(start, count + 1)) > limit_s * 0.999
        assert cost.tokens_within(load, start, cost.predict(load.with_slice(start, 0)) / 2) == 0


def test_few_tokens_are_trusted_before_a_step_is_measured_and_more_after_each() -> None:
    cost = StepCost()
    assert cost.tokens_within(StepLoad(), 0, 1e9) == FIRST_TOKENS
    cost.record(StepLoad().with_slice(0, FIRST_TOKENS), 0.001)
    assert FIRST_TOKENS < cost.tokens_within(StepLoad(), 0, 1e9) <= GROWTH * FIRST_TOKENS


@pytest.mark.parametrize("elapsed_s", [0.0, 1e-9, 1e6])
def test_times_that_no_device_has_leave_predictions_finite(elapsed_s: float) -> None:
    rng, cost = random.Random(1), StepCost()
    learn(cost, lambda _: elapsed_s, rng, 50)
    load = random_load(rng)
    assert 0 <= cost.predict(load) < 1e9
    assert cost.tokens_within(load, 5, 1.0) <= cost.known_tokens


@pytest.mark.parametrize("seed", range(trials(3, 8)))
def test_times_without_any_order_leave_predictions_finite(seed: int) -> None:
    """The machine's speed was multiplied by each change, without bound, until a division by zero."""
    rng, cost = random.Random(seed), StepCost()
    learn(cost, lambda _: rng.choice([0, 1e-9, 5, 1e-3, 1e5]), rng, 1000)
    load = random_load(rng)
    assert 0 <= cost.predict(load) < math.inf
    assert 0 <= cost.tokens_within(load, 5, 1.0) <= cost.known_tokens
