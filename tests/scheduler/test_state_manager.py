"""Recurrent states: every row reads its own sequence's state, nothing leaks, and little is computed twice."""

import random
from collections import Counter

import pytest

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.engine.step import SamplingParams, StepPlan
from pensieve.scheduler.sequence import Request, Sequence

from ..budget import trials
from .driver import Driver, prompt_of
from .oracle import OracleRunner, spell
from .residues import Residues
from .test_constraint import spell_within


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


def run_tree(seed: int, lag: int) -> Counter[str]:
    """Run one random conversation tree with few blocks, few slots, and steps that fail; say what happened."""
    rng = random.Random(seed)
    num_blocks, num_slots = rng.choice([30, 60, 400]), rng.choice([3, 4, 7, 20, 60])
    driver = Driver(num_blocks, lag, rng.choice([1, 3, 8]), rng.choice([64, 300]), num_slots)
    failing = {rng.randint(1, 300) for _ in range(rng.choice([0, 0, 2]))}

    def breaks(plan: StepPlan) -> bool:
        return plan.step_id in failing

    driver.runner = runner = OracleRunner(num_blocks * BLOCK_SIZE, lag, breaks, num_slots)
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
    assert states.slots.num_cached == len(states.checkpoints)
    driver.scheduler.kv_cache.reset_prefix_cache()
    assert states.slots.num_free == num_slots
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
    happened = sum((run_tree(seed, lag) for seed in range(trials(25, 500))), Counter[str]())
    assert min(happened[what] for what in ("hits", "preemptions", "evicted", "failed")) > 5
    assert (happened["refused"] > 50) == (lag > 0)
