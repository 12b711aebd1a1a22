"""Slices and decode rows in one pass over the model."""

import random
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from pensieve.engine.attention.paged_model import probe
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.runner import Runner
from pensieve.engine.step import DecodeRow, PrefillChunk, SamplingParams, StepPlan

from ..harness import Machine, Verdict, judge_trees
from .plain_kernels import PlainKernels, PlainRunner

BOTH = pytest.mark.parametrize("on_host", [True, False])

ROWS = [DecodeRow(i, 7, 0, ((32 * i, 32 * i + 1),), SamplingParams()) for i in range(3)]
SLICES = [PrefillChunk(9, [1, 2, 3, 4, 5], 0, ((96, 101),)), PrefillChunk(10, [6, 7], 0, ((128, 130),))]


class _Noting(nn.Module):
    """Notes the numbers of rows that a linear layer computes."""

    def __init__(self, own: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.own = own
        self._seen: list[int] = []

    def __call__(self, x: mx.array) -> mx.array:
        self._seen.append(x.shape[0])
        result: mx.array = self.own(x)
        return result


@BOTH
def test_the_vocabulary_sees_decode_rows_only_and_other_layers_see_all_rows_once(
    model: Any, on_host: bool
) -> None:
    head, first = _Noting(model.lm_head), _Noting(model.layers[0].mlp.up_proj)
    paged = probe(model, 16)
    model.lm_head, model.layers[0].mlp.up_proj = head, first
    try:
        result = Runner(paged, Capacity(8), on_host, mixed_tokens=7)._forward(StepPlan(0, ROWS, SLICES))
        mx.eval(result.tokens)
    finally:
        model.lm_head, model.layers[0].mlp.up_proj = head.own, first.own
    assert head._seen == [3]
    assert first._seen == [3 + 5 + 2]


@BOTH
def test_more_prompt_tokens_than_allowed_take_passes_of_their_own(
    model: Any, on_host: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runner, "mixed_logits", lambda *_: pytest.fail("one pass"))
    for plan in (StepPlan(0, ROWS, SLICES), StepPlan(1, ROWS), StepPlan(2, [], SLICES[:1])):
        Runner(probe(model, 16), Capacity(8), on_host, mixed_tokens=6)._forward(plan)


def test_mixed_passes_over_kernels_are_exact(model: Any) -> None:
    runner = PlainRunner(probe(model, 16), Capacity(400), False, PlainKernels(), mixed_tokens=24)
    assert judge_trees(model, runner, 4).wrong == 0


@BOTH
def test_not_a_number_in_a_slice_spoils_no_other_row_of_the_pass(model: Any, on_host: bool) -> None:
    rng, verdict, bad_token = random.Random(4), Verdict(), 511
    own = mx.array(model.model.embed_tokens.weight)
    model.model.embed_tokens.weight[bad_token] = mx.nan
    try:
        machine = Machine(Runner(probe(model, 16), Capacity(100), on_host, mixed_tokens=40), num_blocks=100)
        good = machine.add([rng.randrange(500) for _ in range(30)], 40)
        for _ in range(4):
            machine.step()
        bad = machine.add([3, bad_token, *range(20)], 8)
        machine.finish()
    finally:
        model.model.embed_tokens.weight = own
    assert bad.finish_reason == "error"
    assert good.finish_reason == "length"
    verdict.judge(model, good)
    assert verdict.wrong == 0
