"""The promise of test_exactness.py where layers keep no more of a sequence than their window sees.

Prompts then go on from checkpoints, which hold the blocks of a window, and pools of windows are small.
"""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest
from mlx_lm.models.cache import make_prompt_cache

from pensieve.engine.attention.paged_model import probe, probe_fetching
from pensieve.engine.config import EngineConfig
from pensieve.engine.loading.build import build, plan_model
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.runner import Runner
from pensieve.engine.selfcheck import logits_error
from pensieve.engine.served_model import WindowPool
from pensieve.engine.step import SlotRange, StepPlan
from pensieve.engine.step_in_flight import Sampled
from pensieve.engine.trial_sequence import TrialSequence
from pensieve.scheduler.config import SchedulerConfig

from ..budget import sampled, trials
from ..families.random_model import random_model
from ..models import WINDOW, write_model
from .attention.compiled import needs_compiler
from .attention.cpp_kernels import CppKernels
from .attention.plain_kernels import PlainKernels, PlainRunner
from .harness import Machine, Verdict, grow_tree

VOCAB = 512
POOL = WindowPool(
    WINDOW + 1, num_blocks=60, slice_tokens=48, max_running=8
)  # a layer of PLaMo 3 sees a token more
CAPACITY = Capacity(400, 0, POOL.num_blocks)


def load(folder: Path, model_type: str) -> Any:
    return mlx_lm.utils.load_model(write_model(folder, model_type))[0]


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize(
    "model_type", sampled(["gemma3_text", "gpt_oss", "plamo3"], ["gemma3_text", "gpt_oss"])
)
def test_every_token_of_random_conversation_trees_is_exact(
    tmp_path: Path, model_type: str, on_host: bool
) -> None:
    model, rng, verdict = load(tmp_path, model_type), random.Random(model_type), Verdict()
    runner = Runner(probe(model, 16), CAPACITY, on_host, mixed_tokens=24)
    machine = Machine(runner, num_blocks=400, window=POOL)
    for _ in range(trials(1, 1, "PENSIEVE_TREES")):
        for sequence in grow_tree(machine, rng, VOCAB, num_requests=6, constrained=0.3):
            verdict.judge(model, sequence)
    print(f"{model_type}: {verdict}, {machine.scheduler.counters}")
    assert verdict.wrong == 0
    assert verdict.ties <= max(1, verdict.tokens / 1000)
    assert len(verdict.seen) > verdict.tokens / 100, "a model that repeats itself proves nothing"


def test_the_way_to_the_kernels_and_compiled_passes_finds_the_windows_too(tmp_path: Path) -> None:
    model, rng, verdict = load(tmp_path, "gemma3_text"), random.Random(4), Verdict()
    runner = PlainRunner(probe(model, 16), CAPACITY, False, PlainKernels())
    machine = Machine(runner, num_blocks=400, window=POOL)
    for sequence in grow_tree(machine, rng, VOCAB, num_requests=6, constrained=0.3):
        verdict.judge(model, sequence)
    assert verdict.wrong == 0
    assert verdict.tokens > 10


@needs_compiler
@pytest.mark.slow
def test_kernels_and_passes_over_padded_slices_find_the_windows_too(tmp_path: Path) -> None:
    """In C++, which computes at once, and cannot be traced."""
    mx.disable_compile()
    model, rng, verdict = load(tmp_path, "gpt_oss"), random.Random(3), Verdict()
    machine = Machine(Runner(probe(model, 16), CAPACITY, False, CppKernels()), 400, window=POOL)
    for sequence in grow_tree(machine, rng, VOCAB, num_requests=6, constrained=0.3):
        verdict.judge(model, sequence)
    mx.enable_compile()
    assert verdict.wrong == 0
    assert verdict.tokens > 10


@pytest.mark.parametrize(("family", "on_host"), [("gemma3_text", True), ("llama4", True), ("llama4", False)])
def test_a_model_that_gets_its_kv_itself_finds_windows_and_chunks_too(family: str, on_host: bool) -> None:
    """Llama 4 attends within chunks of the context: the tokens before a chunk are needed no more."""
    model, rng, verdict = random_model(family), random.Random(4), Verdict()
    machine = Machine(Runner(probe_fetching(model, 16), CAPACITY, on_host), num_blocks=400, window=POOL)
    for sequence in grow_tree(machine, rng, VOCAB, num_requests=6):
        verdict.judge(model, sequence, make_prompt_cache(model))
    assert verdict.wrong == 0
    assert verdict.tokens > 10


@pytest.mark.parametrize("on_host", [True, False])
def test_the_self_check_sees_windows_that_are_forgotten_too_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_host: bool
) -> None:
    paged = replace(probe(load(tmp_path, "gemma3_text"), 16), forgets_windows=True)
    assert logits_error(paged, on_host) <= 1
    window_ranges = TrialSequence._window_ranges

    def too_few(sequence: TrialSequence, start: int, end: int) -> tuple[SlotRange, ...]:
        """Without the first block, of which the first of a long prompt's later tokens see the end."""
        if start and end > 64:
            sequence._window_table.drop(1)
        return window_ranges(sequence, start, end)

    monkeypatch.setattr(TrialSequence, "_window_ranges", too_few)
    assert not logits_error(paged, on_host) <= 1


def test_a_plan_for_little_memory_forgets_windows(tmp_path: Path) -> None:
    """From the folder to the scheduler, with checkpoints from which the next turn goes on."""
    settings = EngineConfig(str(write_model(tmp_path, "gemma3_text")), kv_cache_gb=0.002)
    runner, served = build(plan_model(tmp_path, settings, max_batch=4))
    assert served.window is not None
    config = SchedulerConfig(4).with_step_tokens(served.step_tokens)
    machine = Machine(runner, served.num_blocks, config, served.max_context, window=served.window)
    rng, verdict, history = random.Random(1), Verdict(), list[int]()
    for _ in range(3):
        question = [rng.randrange(VOCAB) for _ in range(200)]
        history = machine.add(history + question, 10, checkpoints=(len(history),)).tokens
        machine.finish()
        verdict.judge(load(tmp_path, "gemma3_text"), machine.sequences[-1])
    assert verdict.wrong == 0
    assert machine.scheduler.counters.prefix_cache_hits == 192 + 384


class Failing(Runner):
    """Fails at some steps, when KV is already written, and loses it as a dead process would."""

    num_steps = 0

    def _forward(self, plan: StepPlan) -> Sampled:
        result = super()._forward(plan)
        self.num_steps += 1
        if self.num_steps % 45 == 0:
            raise RuntimeError("[metal] injected")
        return result


@pytest.mark.parametrize(
    ("family", "on_host"),
    sampled(
        [("gpt_oss", True), ("gpt_oss", False), ("gear", True), ("llama4", True)],
        kept=[("gpt_oss", False), ("gear", True)],
    ),
)
def test_tokens_stay_exact_when_memory_is_short_and_steps_fail(family: str, on_host: bool) -> None:
    """Gear is recurrent too, and keeps its states beside the windows."""
    model, rng, verdict = random_model(family), random.Random(7), Verdict()
    paged = probe(model, 16)
    num_slots = 16 if paged.states else 0
    short = replace(POOL, num_blocks=2 + 4 * POOL.sequence_blocks, max_running=4)
    runner = Failing(paged, Capacity(13, num_slots, short.num_blocks), on_host)
    machine = Machine(runner, 13, max_context=300, num_state_slots=num_slots, window=short)
    head = [rng.randrange(VOCAB) for _ in range(70)]
    for _ in range(trials(6, 12)):
        machine.add(head + [rng.randrange(VOCAB) for _ in range(rng.randint(1, 90))], rng.randint(1, 60))
    machine.finish(recovers=True)
    for sequence in machine.sequences:
        verdict.judge(model, sequence, make_prompt_cache(model))
    counters = machine.scheduler.counters
    assert verdict.wrong == 0
    assert min(counters.preemptions, counters.evictions, counters.failed_steps) > 0
    assert all(sequence.finish_reason == "length" for sequence in machine.sequences)
