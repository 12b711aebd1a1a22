"""Constrained sequences: the same tokens whether or not a step is planned before the last token is known."""

import random

import pytest

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.engine.step import SamplingParams
from pensieve.scheduler.sequence import Request, Sequence

from .driver import Driver, prompt_of
from .oracle import OracleRunner, nearest, next_token, spell
from .residues import Residues


def spell_within(prompt: list[int], count: int, seed: int) -> list[int]:
    """Return the tokens of a constrained sequence whose every token is drawn with its mask known."""
    constraint, tokens = Residues(seed), list(prompt)
    for _ in range(count):
        tokens.append(nearest(next_token(tokens), constraint.mask()))
        assert constraint.accept(tokens[-1])
    return tokens


def constrained(prompt: list[int], count: int, seed: int) -> Request:
    return Request(prompt, SamplingParams(), count, constraint=Residues(seed))


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("length", [1, 31, 32, 33, 100])
def test_the_tokens_are_those_of_masks_known_in_time(lag: int, length: int) -> None:
    """Prompts that end on either side of a block, whose last slot is then written twice."""
    driver = Driver(lag=lag)
    sequence = driver.scheduler.add(constrained(prompt_of(1, length), 200, seed=0))
    driver.finish()
    assert sequence.tokens == spell_within(prompt_of(1, length), 200, seed=0)
    assert sequence.finish_reason == "length"
    assert isinstance(sequence.request.constraint, Residues)
    assert (sequence.request.constraint.num_refused > 50) == (lag > 0)


@pytest.mark.parametrize("lag", [0, 1])
def test_refused_samples_are_counted_apart_and_use_up_nothing(lag: int) -> None:
    driver = Driver(lag=lag)
    sequence = driver.scheduler.add(constrained([1, 2, 3], 64, seed=0))
    driver.finish()
    counters = driver.scheduler.counters
    assert len(sequence.tokens) == 3 + 64
    assert counters.generation_tokens == 64
    assert (counters.refused_tokens > 0) == (lag > 0)


@pytest.mark.parametrize("lag", [0, 1])
def test_a_stop_token_that_is_not_allowed_does_not_end_a_sequence(lag: int) -> None:
    driver = Driver(lag=lag)
    wanted = spell_within([5, 6], 60, seed=0)
    place = next(i for i in range(2, 60) if next_token(wanted[:i]) != wanted[i])
    stop = next_token(wanted[:place])
    request = Request([5, 6], SamplingParams(), 60, frozenset({stop}), constraint=Residues(0))
    sequence = driver.scheduler.add(request)
    driver.finish()
    assert sequence.tokens[: place + 1] == wanted[: place + 1]


@pytest.mark.parametrize("lag", [0, 1])
def test_random_schedules_keep_constrained_and_free_sequences_exact(lag: int) -> None:
    """Shared prefixes, cancellations and preemptions at random; half of the sequences are constrained."""
    refused = preempted = 0
    for seed in range(60):
        rng = random.Random(seed)
        driver = Driver(num_blocks=rng.choice([12, 30, 100]), lag=lag, max_batch=rng.choice([1, 3, 8]))
        stems = [prompt_of(seed * 10 + i, rng.randint(1, 150)) for i in range(3)]
        started: list[tuple[Sequence, list[int]]] = []
        for _ in range(12):
            prompt = rng.choice(stems)[: rng.randint(1, 150)] + prompt_of(0, rng.randint(0, 70))
            count = rng.randint(1, 80)
            request = constrained(prompt, count, seed) if rng.random() < 0.5 else None
            request = request or Request(prompt, SamplingParams(), count)
            expected = spell(prompt, count) if request.constraint is None else None
            started.append((driver.scheduler.add(request), expected or spell_within(prompt, count, seed)))
            for _ in range(rng.choice([0, 0, 2, 9])):
                driver.step()
            if rng.random() < 0.3:
                driver.scheduler.end(rng.choice(started)[0], "abort")
        driver.finish()
        for sequence, expected in started:
            whole = sequence.finish_reason == "length"
            assert sequence.tokens == (expected if whole else expected[: len(sequence.tokens)])
        assert driver.scheduler.kv_cache.allocator.num_held == 0
        assert driver.scheduler.kv_cache.allocator.num_cached == driver.scheduler.kv_cache.tree.num_blocks
        refused += driver.scheduler.counters.refused_tokens
        preempted += driver.scheduler.counters.preemptions
    assert preempted > 20
    assert (refused > 1000) == (lag > 0)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("failing", [5, 9, 14])
def test_what_was_accepted_stays_when_a_step_fails(lag: int, failing: int) -> None:
    driver = Driver(num_blocks=100, lag=lag)
    sequences = [driver.scheduler.add(constrained(prompt_of(i, 40), 60, seed=i)) for i in range(4)]

    driver.runner = OracleRunner(100 * BLOCK_SIZE, lag, lambda plan: plan.step_id == failing)
    driver.finish(recovers=True)
    for i, sequence in enumerate(sequences):
        assert sequence.tokens == spell_within(prompt_of(i, 40), 60, seed=i)


class Broken(Residues):
    """Refuses what it allowed, allows nothing, or raises."""

    def __init__(self, fault: str) -> None:
        super().__init__(0)
        self.fault = fault

    def mask(self) -> bytes | None:
        if self.fault == "mask raises":
            raise RuntimeError("injected")
        return b"" if self.fault == "nothing allowed" else super().mask()

    def accept(self, token: int) -> bool:
        if self.fault == "accept raises":
            raise RuntimeError("injected")
        return self.fault != "refuses all" and super().accept(token)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("fault", ["mask raises", "nothing allowed", "accept raises", "refuses all"])
def test_a_broken_constraint_ends_its_own_request_only(fault: str, lag: int) -> None:
    driver = Driver(lag=lag)
    broken = driver.scheduler.add(Request([1, 2, 3], SamplingParams(), 50, constraint=Broken(fault)))
    neighbour = driver.scheduler.add(constrained([4, 5], 50, seed=0))
    driver.finish()
    assert broken.finish_reason == "error"
    assert neighbour.tokens == spell_within([4, 5], 50, seed=0)
