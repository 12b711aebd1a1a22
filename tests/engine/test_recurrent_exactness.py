"""The promise of test_exactness.py for models with recurrent layers, with states in the scheduler's slots.

Every greedy token is judged against one pass of mlx-lm's own over its whole sequence, on mlx-lm's own caches.
Residues refuse most of what a model would say next, so that states from before refused tokens are read again.
"""

import random
from collections.abc import Iterator
from itertools import product
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from pensieve.engine.attention.paged_model import probe
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.recurrent.parted_layers import with_parts
from pensieve.engine.reference_caches import reference_caches
from pensieve.engine.runner import Runner
from pensieve.engine.step import StepPlan
from pensieve.engine.step_in_flight import Sampled
from pensieve.scheduler.sequence import Sequence

from ..budget import sampled, trials
from .attention.plain_kernels import PlainKernels, PlainRunner
from .harness import QUANTISED_TIE, Machine, Verdict, grow_tree
from .recurrent_models import CONFIGS, VOCAB, recurrent_model


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """Most models compile an operation or two, which on a CPU takes longer than these tests."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def judge(verdict: Verdict, model: Any, sequences: list[Sequence]) -> Verdict:
    for sequence in sequences:
        verdict.judge(model, sequence, make_prompt_cache(model))
    return verdict


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("kind", sampled(CONFIGS, ["qwen3_next", "nemotron_h", "lfm2"]))
def test_every_token_of_random_conversation_trees_is_exact(kind: str, on_host: bool) -> None:
    """Trees of a few requests; checkpoints are few, so that slots are dropped and handed out again.

    With NumPy, a pass leaves states within its slice; with plain MLX, a slice with such states is several.
    """
    model, verdict = recurrent_model(kind), Verdict()
    paged = with_parts(probe(model, 16)) if on_host else probe(model, 16)
    num_trees = trials(1, 2, "PENSIEVE_TREES")
    rng, capacity = random.Random(num_trees), Capacity(400, 30)
    machine = Machine(Runner(paged, capacity, on_host), 400, num_state_slots=30)
    for _ in range(num_trees):
        judge(verdict, model, grow_tree(machine, rng, VOCAB, num_requests=4, constrained=0.3))
    counters = machine.scheduler.counters
    print(f"{kind}: {num_trees} trees, {verdict}, {counters}")
    assert verdict.wrong == 0
    assert verdict.tokens > 10 * num_trees
    assert verdict.ties <= max(1, verdict.tokens / 1000)
    assert len(verdict.seen) > verdict.tokens / 100, "a model that repeats itself proves nothing"
    assert num_trees < 4 or counters.prefix_cache_hits > counters.prefix_cache_queries / 20


@pytest.mark.parametrize(
    ("num_slots", "on_host"), sampled(product([30, 5], [True, False]), [(30, False), (5, True)])
)
def test_tokens_stay_exact_when_blocks_or_slots_are_short(num_slots: int, on_host: bool) -> None:
    model, rng, verdict = recurrent_model("lfm2"), random.Random(7), Verdict()
    runner = Runner(probe(model, 16), Capacity(13, num_slots), on_host)
    machine = Machine(runner, num_blocks=13, max_context=300, num_state_slots=num_slots)
    for _ in range(trials(4, 5)):
        prompts = [[rng.randrange(VOCAB) for _ in range(rng.randint(1, 120))] for _ in range(6)]
        started = [machine.add(prompt, rng.randint(1, 60)) for prompt in prompts]
        machine.finish()
        judge(verdict, model, started)
    assert verdict.wrong == 0
    assert machine.scheduler.counters.preemptions > 0 or num_slots < 16, "two sequences run at once"
    assert machine.scheduler.counters.evictions > 0


def test_the_way_to_the_kernels_keeps_states_too() -> None:
    model, rng, verdict = recurrent_model("nemotron_h"), random.Random(4), Verdict()
    runner = PlainRunner(probe(model, 16), Capacity(400, 30), False, PlainKernels())
    machine = Machine(runner, num_blocks=400, num_state_slots=30)
    for _ in range(trials(2, 3)):
        judge(verdict, model, grow_tree(machine, rng, VOCAB, num_requests=4, constrained=0.3))
    assert verdict.wrong == 0
    assert verdict.tokens > 10


@pytest.mark.parametrize("kv_bits", [8, 4])
def test_quantised_kv_beside_states_is_as_exact(kv_bits: int) -> None:
    """The states keep their own type; the judge quantises the KV as well."""
    model, rng = recurrent_model("falcon_h1"), random.Random(kv_bits)
    paged, verdict = probe(model, kv_bits), Verdict(tie=QUANTISED_TIE)
    machine = Machine(Runner(paged, Capacity(400, 30), True), num_blocks=400, num_state_slots=30)
    for _ in range(trials(2, 3)):
        for sequence in grow_tree(machine, rng, VOCAB, num_requests=4):
            verdict.judge(model, sequence, reference_caches(paged))
    assert verdict.wrong == 0
    assert verdict.tokens > 10


class Failing(Runner):
    """Fails at some steps, when states and KV are already written, and loses both as a dead process would."""

    num_steps = 0

    def _forward(self, plan: StepPlan) -> Sampled:
        result = super()._forward(plan)
        self.num_steps += 1
        if self.num_steps % 20 == 0:
            raise RuntimeError("[metal] injected")
        return result


@pytest.mark.parametrize("on_host", [True, False])
def test_states_that_were_lost_are_computed_anew(on_host: bool) -> None:
    model, rng, verdict = recurrent_model("lfm2"), random.Random(3), Verdict()
    runner = Failing(probe(model, 16), Capacity(100, 30), on_host)
    machine = Machine(runner, num_blocks=100, num_state_slots=30)
    head = [rng.randrange(VOCAB) for _ in range(70)]
    for _ in range(6):
        machine.add(head + [rng.randrange(VOCAB) for _ in range(rng.randint(1, 60))], 12)
        machine.step_or_recover()
    machine.finish(recovers=True)
    finished = [sequence for sequence in machine.sequences if sequence.finish_reason == "length"]
    assert judge(verdict, model, finished).wrong == 0
    assert runner.num_steps > 20
    assert verdict.tokens > 12
