"""Layers that attend to the keys and values of others: nothing is kept for them, and answers are exact."""

import random
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from pensieve.engine.attention.host_attention import HostAttention
from pensieve.engine.attention.paged_model import probe
from pensieve.engine.fused_model import fuse
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.runner import Runner
from pensieve.engine.trial_sequence import TrialSequence

from ...budget import sampled, trials
from ...families.random_model import random_model
from ..harness import Machine, Verdict, grow_tree
from .plain_kernels import PlainKernels, PlainRunner


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """On a CPU `mx.compile` calls a C++ compiler."""
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.mark.parametrize("name", ["gemma3n", "gemma4"])
def test_slices_do_not_compute_layers_that_keep_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a prompt's slice all layers behind the last that keeps something are left out, and its attention."""
    calls: list[int] = []
    attend = HostAttention.attend

    def counted(own: HostAttention, queries: Any, *args: Any) -> Any:
        calls.append(queries.shape[2])
        return attend(own, queries, *args)

    monkeypatch.setattr(HostAttention, "attend", counted)
    model = random_model(name)
    paged = probe(model, 16)
    assert len(paged.layers) < len(model.layers)
    runner, sequence = Runner(paged, Capacity(4), on_host=True), TrialSequence(paged, 0, [2, 1])
    runner.prefill(sequence.chunk(0, 40))
    assert calls == [40] * (len(paged.layers) - 1)
    mx.eval(runner.logits([sequence.row(40)]))
    assert len(calls) == len(paged.layers) - 1 + len(model.layers)


@pytest.mark.parametrize(
    ("name", "on_host"),
    sampled(
        [(name, on_host) for name in ("gemma3n", "gemma4", "iquestloopcoder") for on_host in (True, False)],
        kept=[("gemma4", True), ("iquestloopcoder", False)],
    ),
)
def test_tokens_are_those_of_one_pass_of_mlx_lm(name: str, on_host: bool) -> None:
    """In a looped model a layer reads the keys of an earlier loop and its own, under a window.

    The judge has caches, as Gemma 3n's layers share nothing without.
    """
    model, rng, verdict = random_model(name), random.Random(1), Verdict(tie=1e-3)
    machine = Machine(Runner(probe(model, 16), Capacity(400), on_host), num_blocks=400)
    num_trees = trials(2, 5)
    for _ in range(num_trees):
        for sequence in grow_tree(machine, rng, 512, num_requests=4):
            verdict.judge(model, sequence, make_prompt_cache(model))
    assert verdict.wrong == 0
    assert verdict.tokens > 15 * num_trees
    assert len(verdict.seen) > verdict.tokens / 10


@pytest.mark.parametrize("name", sampled(["gemma3n", "gemma4"], kept=["gemma4"]))
def test_layers_that_share_kv_are_exact_over_pools_that_kernels_write(name: str) -> None:
    """Readers give the kernels the owner's new keys and values again, in graphs as well."""
    model, rng, verdict = random_model(name), random.Random(3), Verdict(tie=1e-3)
    runner = PlainRunner(fuse(probe(model, 16)), Capacity(400), False, PlainKernels())
    machine = Machine(runner, num_blocks=400)
    num_trees = trials(2, 3)
    for _ in range(num_trees):
        for sequence in grow_tree(machine, rng, 512, num_requests=4):
            verdict.judge(model, sequence, make_prompt_cache(model))
    assert verdict.wrong == 0
    assert verdict.tokens > 10 * num_trees
