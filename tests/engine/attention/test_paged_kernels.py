"""Whole steps through kernels: in plain MLX, in C++, on a GPU by the kernels themselves."""

import random
from pathlib import Path
from typing import Any

import mlx_lm.utils
import pytest

from pensieve.engine import decode_graphs, selfcheck
from pensieve.engine.attention.kernels import decode_tables, tiles
from pensieve.engine.attention.kernels.layer_kernels import Launch
from pensieve.engine.attention.kernels.paged_kernels import find_kernels
from pensieve.engine.attention.kernels.source import TILES, Kernel
from pensieve.engine.attention.paged_model import probe
from pensieve.engine.fused_model import fuse
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.runner import Runner
from pensieve.engine.step import DecodeRow, PrefillChunk, SamplingParams

from ...budget import sampled, trials
from ...models import write_model
from ..harness import Machine, Verdict, judge_trees
from .compiled import needs_compiler
from .cpp_kernels import CppKernels
from .noted_kernels import NotedKernels
from .plain_kernels import PlainKernels, PlainRunner

needs_gpu = pytest.mark.skipif(find_kernels() is None, reason="no GPU")


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt_oss"])
def test_the_way_to_the_kernels_is_exact(tmp_path: Path, model_type: str) -> None:
    model = mlx_lm.utils.load_model(write_model(tmp_path, model_type))[0]
    num_trees = trials(3, 12)
    verdict = judge_trees(
        model, PlainRunner(probe(model, 16), Capacity(400), False, PlainKernels()), num_trees
    )
    assert verdict.wrong == 0
    assert verdict.tokens > trials(45, 200)


@pytest.mark.parametrize("wide", [True, False])
def test_kernels_and_plain_mlx_share_a_pass(tmp_path: Path, wide: bool) -> None:
    """Kernels serve layers of one size of head, plain MLX those of the other."""
    paged = probe(mlx_lm.utils.load_model(write_model(tmp_path, "gemma4_text"))[0], 16)
    kernels = PlainKernels()
    for spec in paged.layers:
        if (spec.shape.key_dim == 64) == wide:
            kernels.leave_out(spec.shape, spec.num_heads)
    runner = PlainRunner(paged, Capacity(400), False, kernels)
    assert "plain MLX in" in runner.caches.attention_backend
    assert judge_trees(paged.model, runner, trials(1, 4)).wrong == 0


def share_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few short rows share tiles."""
    for name, value in {"MIN_SHARED": 32, "MIN_SAVED": 32, "MIN_SPLIT": 64}.items():
        monkeypatch.setattr(decode_tables, name, value)
    monkeypatch.setattr(tiles, "MIN_TILE", 64)


def judge_stems(model: Any, runner: Runner, max_tokens: int) -> Verdict:
    """Many sequences at once that share long and short stems."""
    machine, rng, verdict = Machine(runner, num_blocks=400), random.Random(7), Verdict()
    stem = [rng.randrange(512) for _ in range(110)]
    stems = [stem, *(stem + [rng.randrange(512) for _ in range(size)] for size in (70, 40))]
    for prompt in stems:
        machine.add(prompt, 1)
    machine.finish()
    added = [
        machine.add(
            [*rng.choice(stems), *(rng.randrange(512) for _ in range(rng.randint(1, 60)))], max_tokens
        )
        for _ in range(12)
    ]
    machine.finish()
    for sequence in added:
        verdict.judge(model, sequence)
    return verdict


@needs_compiler
@pytest.mark.parametrize(
    "model_type", sampled(["llama", "gemma3_text", "gpt_oss", "qwen2"], kept=["gpt_oss"])
)
def test_the_kernels_text_under_the_runner_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    """In C++, which cannot be a part of a compiled graph."""
    monkeypatch.setattr(decode_graphs, "MAX_FAILURES", 0)
    share_early(monkeypatch)
    model = mlx_lm.utils.load_model(write_model(tmp_path / model_type, model_type))[0]
    runner = Runner(probe(model, 16), Capacity(400), False, CppKernels())
    assert judge_stems(model, runner, max_tokens=trials(4, 8)).wrong == 0
    assert judge_trees(model, runner, trials(1, 2)).wrong == 0


class TilelessKernels(NotedKernels):
    def __init__(self) -> None:
        super().__init__("cpp", has_tiles=False)

    def _build(self, kernel: Kernel, scale: float, workspace_bytes: int = 0) -> Launch:
        assert kernel is not TILES
        return super()._build(kernel, scale, workspace_bytes)


def test_kernels_without_tiles_serve_slices_and_shared_stretches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share_early(monkeypatch)
    model = mlx_lm.utils.load_model(write_model(tmp_path, "llama"))[0]
    runner = Runner(probe(model, 16), Capacity(16), False, TilelessKernels())
    runner.prefill(PrefillChunk(0, [7] * 70, 0, ((0, 70),)))
    ends = [(128, 130), (192, 193)]
    rows = [DecodeRow(i, 7, 64 + i, ((0, 64), end), SamplingParams()) for i, end in enumerate(ends)]
    assert runner.logits(rows).shape == (2, 512)


@needs_gpu
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "phi3", "gemma3_text"])
def test_the_kernels_of_this_device_are_exact(tmp_path: Path, model_type: str) -> None:
    model = mlx_lm.utils.load_model(write_model(tmp_path / model_type, model_type))[0]
    paged = fuse(probe(model, 16))
    assert selfcheck.usable_kernels(paged) is not None
    verdict = judge_trees(model, Runner(paged, Capacity(400), False, find_kernels()), 30)
    # Where MLX multiplies in tf32, near ties change places in the reference as well.
    assert verdict.wrong <= verdict.tokens / 100


@needs_gpu
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_shared_tiles_in_compiled_graphs_are_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    share_early(monkeypatch)
    model = mlx_lm.utils.load_model(write_model(tmp_path / model_type, model_type))[0]
    verdict = judge_stems(
        model, Runner(probe(model, 16), Capacity(400), False, find_kernels()), max_tokens=40
    )
    assert verdict.wrong <= verdict.tokens / 100
