"""Attention through kernels: the way to them, the check before their use, on a GPU the kernels themselves."""

import logging
import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest
from pensieve.engine import selfcheck
from pensieve.engine.attention import attend_arrays
from pensieve.engine.kernels.device import Options, PagedKernels, PassTables, find_kernels
from pensieve.engine.runner import Runner
from pensieve.engine.step import Run

from ..models import write_model
from .harness import Machine, Verdict, grow_tree

Pair = tuple[mx.array, mx.array]

needs_gpu = pytest.mark.skipif(find_kernels() is None, reason="no GPU")


class PlainKernels(PagedKernels):
    """Does in MLX what the kernels do: writes the pools in place, hands on what to wait for."""

    def __init__(self) -> None:
        super().__init__("cuda")

    def decode(self, queries: mx.array, new: Pair, pools: Pair, batch: PassTables, options: Options) -> Pair:
        slots = mx.array([runs[-1][1] - 1 for runs in batch.runs])
        for pool, fresh in zip(pools, new, strict=True):
            pool[:, slots] = fresh[:, :, 0].swapaxes(0, 1)
        return attend_arrays(queries, *pools, batch.runs, options.scale), options.after

    def append(self, new: Pair, pools: Pair, slots: mx.array, after: mx.array) -> mx.array:
        for pool, fresh in zip(pools, new, strict=True):
            pool[:, slots[: fresh.shape[2]]] = fresh[0]
        return after

    def gather(self, pools: Pair, runs: tuple[Run, ...], after: mx.array) -> Pair:
        keys, values = (
            mx.concatenate([pool[:, first:end] for first, end in runs], axis=1)[None] for pool in pools
        )
        return keys, values


class WrongKernels(PlainKernels):
    def decode(self, queries: mx.array, new: Pair, pools: Pair, batch: PassTables, options: Options) -> Pair:
        out, after = super().decode(queries, new, pools, batch, options)
        return out * 1.5, after


class BrokenKernels(PlainKernels):
    def append(self, new: Pair, pools: Pair, slots: mx.array, after: mx.array) -> mx.array:
        raise RuntimeError("the compiler is missing")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return mlx_lm.utils.load_model(write_model(tmp_path_factory.mktemp("llama")))[0]


def judge_trees(model: Any, kernels: PagedKernels | None, num_trees: int) -> Verdict:
    rng, verdict = random.Random(num_trees), Verdict()
    machine = Machine(Runner(model, 400, False, kernels), num_blocks=400)
    for _ in range(num_trees):
        for sequence in grow_tree(machine, rng, 512, num_requests=4):
            verdict.judge(model, sequence)
    return verdict


def test_the_way_to_the_kernels_is_exact(model: Any) -> None:
    verdict = judge_trees(model, PlainKernels(), 12)
    assert verdict.wrong == 0
    assert verdict.tokens > 200


def test_kernels_that_agree_are_used(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = PlainKernels()
    monkeypatch.setattr(selfcheck, "find_kernels", lambda: kernels)
    assert selfcheck.usable_kernels(model, 512) is kernels


@pytest.mark.parametrize(
    ("kernels", "reason"), [(WrongKernels(), "compute wrongly"), (BrokenKernels(), "the compiler is missing")]
)
def test_kernels_that_fail_are_left_out_with_a_warning(
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kernels: PagedKernels,
    reason: str,
) -> None:
    monkeypatch.setattr(selfcheck, "find_kernels", lambda: kernels)
    with caplog.at_level(logging.WARNING):
        assert selfcheck.usable_kernels(model, 512) is None
    assert reason in caplog.text


def test_without_a_gpu_there_are_no_kernels_to_check(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "find_kernels", lambda: None)
    assert selfcheck.usable_kernels(model, 512) is None


@needs_gpu
@pytest.mark.parametrize("model_type", ["llama", "phi3"])
def test_the_kernels_of_this_device_are_exact(tmp_path: Path, model_type: str) -> None:
    model = mlx_lm.utils.load_model(write_model(tmp_path / model_type, model_type))[0]
    assert selfcheck.usable_kernels(model, 512) is not None
    verdict = judge_trees(model, find_kernels(), 30)
    # Where MLX multiplies in tf32, near ties change places in the reference as well.
    assert verdict.wrong <= verdict.tokens / 100
