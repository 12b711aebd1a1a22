"""The slices that a step gets beside decode rows, on devices whose cost is made up."""

import random
from dataclasses import dataclass, field

import pytest

from pensieve.engine.step import DecodeRow, SamplingParams
from pensieve.scheduler.sequence import Sequence
from pensieve.scheduler.step_budget import PASS_SHARE, PROMPT_SHARE, PROMPTS_ONLY_S, StepBudget
from pensieve.scheduler.step_cost import StepCost
from pensieve.scheduler.step_load import StepLoad

from ..budget import trials
from .driver import request

TARGET_S = 0.25
STEP_TOKENS = 4096


@dataclass
class Machine:
    """A device by its seconds a pass, row, token and pair, and the scheduler's model of it."""

    decode_s: float = 0.01
    slice_s: float = 0.01
    row_s: float = 1e-4
    token_s: float = 2e-5
    pair_s: float = 2e-9
    is_joint: bool = False  # rows and slices share a pass
    compiles: float = 0.0  # share of steps that take ten times as long
    noise: float = 0.0
    slowdown: float = 1.0
    cost: StepCost = field(default_factory=StepCost)
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    @classmethod
    def drawn(cls, seed: int) -> "Machine":
        rng = random.Random(seed)
        speed = 10 ** rng.uniform(-0.5, 1)
        return cls(
            decode_s=speed * 10 ** rng.uniform(-2.5, -1.5),
            slice_s=speed * 10 ** rng.uniform(-2.5, -1.5),
            row_s=speed * 10 ** rng.uniform(-5, -3),
            token_s=speed * 10 ** rng.uniform(-5, -3.5),
            pair_s=speed * 10 ** rng.uniform(-9.5, -8.5),
            is_joint=rng.random() < 0.5,
            noise=rng.choice([0.05, 0.15]),
            compiles=rng.choice([0, 0.05]),
            rng=rng,
        )

    def seconds(self, load: StepLoad) -> float:
        passes_s = self.slice_s * load.slices + self.decode_s * (load.rows > 0)
        if self.is_joint:
            passes_s = max(self.slice_s * (load.slices > 0), self.decode_s * (load.rows > 0))
        work_s = load.rows * self.row_s + load.tokens * self.token_s + load.pairs * self.pair_s
        return self.slowdown * (passes_s + work_s)

    def alone_s(self, load: StepLoad) -> float:
        """Seconds of the decode rows without slices."""
        return self.seconds(StepLoad(load.rows, load.rows_context))

    def step(self, step_id: int, num_rows: int, prompts: list[Sequence]) -> StepLoad:
        """Plan a step as the scheduler does, and let the model learn what it takes."""
        budget = StepBudget(step_id, STEP_TOKENS, TARGET_S, self.cost)
        budget.take_rows([DecodeRow(i, None, 999, ((0, 1000),), SamplingParams()) for i in range(num_rows)])
        load = StepLoad(num_rows, 1000 * num_rows)
        for sequence, num_tokens in budget.slice_prefills(prompts).items():
            load = load.with_slice(sequence.num_computed_tokens, num_tokens)
            sequence.num_computed_tokens += num_tokens
        accident = 10 if self.rng.random() < self.compiles else 1
        self.cost.record(load, self.seconds(load) * self.rng.lognormvariate(0, self.noise) * accident)
        return load

    def longest_s(self, load: StepLoad) -> float:
        """What a step may take: the target, or what gives prompts their share, or one slice its worth."""
        alone_s = self.alone_s(load)
        pass_s = self.seconds(load._replace(slices=1, tokens=0, pairs=0)) - alone_s
        return max(TARGET_S, alone_s / (1 - PROMPT_SHARE), alone_s + pass_s / PASS_SHARE)


def endless(start: int = 0) -> Sequence:
    """A sequence whose prompt is longer than what any test computes of it."""
    sequence = Sequence(1, request([1] * 500_000), 500_001)
    sequence.num_computed_tokens = start
    return sequence


def warm_up(machine: Machine, num_rows: int, steps: int = 90) -> None:
    """Play prompts that come and go, now and then while nobody decodes."""
    prompt = endless()
    for step_id in range(steps):
        if step_id % 7 == 0:  # the prompt's last tokens, rows alone, then another prompt's first
            prompt = endless(500_000 - machine.rng.randint(20, 500))
        if step_id % 7 == 1:
            machine.step(step_id, num_rows, [])
        machine.step(step_id, num_rows if step_id % 30 > 10 else 0, [prompt])
        prompt = prompt if prompt.is_prefilling else endless()


def play(machine: Machine, num_rows: int, steps: int) -> list[StepLoad]:
    """Step while `num_rows` decode beside prompts of 10,000 tokens."""
    prompts = [endless(), endless()]
    loads = []
    for step_id in range(steps):
        loads.append(machine.step(step_id, num_rows, prompts))
        for prompt in prompts:
            prompt.num_computed_tokens %= 10_000
    return loads


def check(machine: Machine, loads: list[StepLoad], tolerance: float = 1.5) -> None:
    """Nine in ten steps take no longer than they may, and give prompts their share."""
    loads = [load for load in loads if load.slices]  # the others are to measure rows alone
    times = [machine.seconds(load) for load in loads]
    used = sorted(time / machine.longest_s(load) for time, load in zip(times, loads, strict=True))
    assert used[len(used) * 9 // 10] < tolerance
    # Where the number of tokens has cut a slice, the time is not used.
    cut = [pair for pair in zip(loads, times, strict=True) if pair[0].tokens < STEP_TOKENS * 7 / 8]
    if len(cut) > len(loads) // 2:
        assert used[len(used) // 2] > 0.6  # the time is used: slices do not shrink to nothing
        shares = sorted(1 - machine.alone_s(load) / time for load, time in cut)
        assert shares[len(shares) // 10] > 0.7 * PROMPT_SHARE


@pytest.mark.parametrize("seed", range(trials(5, 12)))
def test_steps_keep_the_target_and_prompts_their_share_on_any_machine(seed: int) -> None:
    machine = Machine.drawn(seed)
    num_rows = machine.rng.randint(1, 16)
    warm_up(machine, num_rows)
    check(machine, play(machine, num_rows, 60))


@pytest.mark.parametrize("seed", range(trials(2, 8)))
def test_a_machine_that_becomes_three_times_slower_or_faster_is_followed(seed: int) -> None:
    machine = Machine.drawn(seed)
    num_rows = machine.rng.randint(1, 16)
    warm_up(machine, num_rows)
    for slowdown in (3.0, 1.0):
        machine.slowdown = slowdown  # for rows alone, five of the steps that measure them
        play(machine, num_rows, 100)
        check(machine, play(machine, num_rows, 30), tolerance=2)


def test_a_pass_that_takes_longer_than_the_target_leaves_room_for_a_slice_worth_it() -> None:
    """A large model on a laptop: the old pacer shrank slices to 32 tokens there."""
    machine = Machine(decode_s=0.2, slice_s=0.2, token_s=1e-3)
    warm_up(machine, 8)
    for load in play(machine, 8, 20):
        assert not load.slices or load.tokens * machine.token_s > 0.9 * 2 * machine.slice_s
        assert machine.seconds(load) < 1.0


def test_while_nobody_decodes_a_slice_is_as_long_as_a_step_may_be() -> None:
    fast, slow = Machine(), Machine(token_s=1e-3)
    for machine in (fast, slow):
        warm_up(machine, 4)
    assert {load.tokens for load in play(fast, 0, 8)} == {STEP_TOKENS}
    for load in play(slow, 0, 8):
        assert 0.8 * PROMPTS_ONLY_S < slow.seconds(load) < 1.2 * PROMPTS_ONLY_S


def test_a_second_slice_is_added_if_it_ends_a_prompt_or_is_worth_its_pass() -> None:
    machine = Machine()
    warm_up(machine, 4)
    nearly_all = endless()
    nearly_all.request.prompt[STEP_TOKENS - 100 :] = []
    nearly_all.tokens[STEP_TOKENS - 100 :] = []
    short = Sequence(2, request([1] * 40), 41)
    budget = StepBudget(1, STEP_TOKENS, TARGET_S, machine.cost)
    assert budget.slice_prefills([endless(), nearly_all, short]) == {short: 39, nearly_all: STEP_TOKENS - 101}
    budget = StepBudget(1, STEP_TOKENS, TARGET_S, machine.cost)
    assert budget.slice_prefills([nearly_all, endless()]) == {nearly_all: STEP_TOKENS - 101}


def test_lengths_of_slices_come_from_a_small_set_and_no_prompt_keeps_a_few_tokens() -> None:
    machine, prompt = Machine(token_s=1e-3, noise=0.2), endless()
    warm_up(machine, 4)
    lengths = {machine.step(step_id, 4, [prompt]).tokens for step_id in range(100)} - {0}
    assert all(tokens % (1 << max(0, tokens.bit_length() - 4)) == 0 for tokens in lengths)
    for rest in range(20, 2 * max(lengths), 10):
        short = Sequence(1, request([1] * (rest + 1)), rest + 2)
        taken = machine.step(1, 4, [short]).tokens
        assert taken == rest or not taken or rest - taken >= taken // 9
