"""Attention through kernels: the way to them, the check before their use, on a GPU the kernels themselves."""

import logging
import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import numpy as np
import pytest
from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.cache.kv import ArrayPools, Pool
from pensieve.engine import graphs, selfcheck
from pensieve.engine.attention import Scoring, attend_arrays, attend_slice
from pensieve.engine.graphs import MAX_FAILURES, DecodeGraphs, Graph, Layouts
from pensieve.engine.kernels import tables
from pensieve.engine.kernels.batch import BatchTables
from pensieve.engine.kernels.device import Options, PagedKernels, find_kernels
from pensieve.engine.runner import Runner
from pensieve.engine.step import DecodeRow, Run

from ..models import write_model
from . import naive
from .compiled import has_compiler
from .cpp_kernels import CppKernels
from .harness import Machine, Verdict, grow_tree

Pair = tuple[mx.array, mx.array]
Pools = tuple[Pool, Pool]

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
needs_gpu = pytest.mark.skipif(find_kernels() is None, reason="no GPU")


def stored(pool: Pool, fresh: mx.array) -> mx.array:
    """What would be read after `fresh` had been stored."""
    row = Pool(
        mx.zeros((*fresh.shape[:-1], pool.rows.shape[-1]), pool.rows.dtype),
        pool.shape[-1],
        pool.packing,
        pool.dtype,
    )
    row[:] = fresh
    read: mx.array = row[:]
    return read


class PlainKernels(PagedKernels):
    """Does in MLX what the kernels do, from the same tables, but for their writes in place.

    A graph that is compiled cannot write to what it is given: what is to be written goes out as `done`.
    """

    def __init__(self) -> None:
        super().__init__("cuda")

    def decode(
        self, queries: mx.array, new: Pair, pools: Pools, batch: BatchTables, options: Options
    ) -> Pair:
        tables, scoring = batch.get((1, options.scoring.window)), options.scoring
        newest = tables.items[tables.ranges[:, 0], 3][:, None]
        slots = (tables.table[:, :, None] * BLOCK_SIZE + mx.arange(BLOCK_SIZE)).reshape(len(newest), -1)
        index = mx.arange(slots.shape[1])[None]
        is_newest, is_seen = index == newest, (index <= newest) & (index > newest - (scoring.window or 10**6))
        keys, values = (
            mx.where(is_newest[:, None, :, None], stored(pool, fresh), pool[:, slots].swapaxes(0, 1))
            for pool, fresh in zip(pools, new, strict=True)
        )
        out = mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=scoring.scale, mask=is_seen[:, None, None], sinks=scoring.sinks
        )
        return out, mx.stack(list(new))

    def append(self, new: Pair, pools: Pools, slots: mx.array, after: mx.array) -> mx.array:
        for pool, fresh in zip(pools, new, strict=True):
            pool[:, slots[: fresh.shape[2]]] = fresh[0]
        return after

    def gather(self, pools: Pools, runs: tuple[Run, ...], after: mx.array) -> Pair:
        keys, values = (mx.concatenate([pool[:, first:end] for first, end in runs], axis=1) for pool in pools)
        return keys, values


class PlainRunner(Runner):
    """Writes what PlainKernels hand out."""

    def logits(self, rows: list[DecodeRow]) -> mx.array:
        logits, pools = super().logits(rows), self._pools
        assert isinstance(pools, ArrayPools)
        if self._kernels is None:
            return logits
        slots = np.array([row.runs[-1][1] - 1 for row in rows], np.int32)
        for layer, done in enumerate(pools.done):
            keys, values = done[:, : len(rows), :, 0].swapaxes(1, 2)
            pools.write(layer, slots, keys, values)
            pools.done[layer] = mx.zeros((8,))
        return logits


class WrongKernels(PlainKernels):
    def decode(
        self, queries: mx.array, new: Pair, pools: Pools, batch: BatchTables, options: Options
    ) -> Pair:
        out, after = super().decode(queries, new, pools, batch, options)
        return out * 1.5, after


class ForgetfulKernels(PlainKernels):
    """Right in each step, but wrong in what they store."""

    def decode(
        self, queries: mx.array, new: Pair, pools: Pools, batch: BatchTables, options: Options
    ) -> Pair:
        out, stored = super().decode(queries, new, pools, batch, options)
        return out, mx.zeros_like(stored)


class BrokenKernels(PlainKernels):
    def append(self, new: Pair, pools: Pools, slots: mx.array, after: mx.array) -> mx.array:
        raise RuntimeError("the compiler is missing")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return mlx_lm.utils.load_model(write_model(tmp_path_factory.mktemp("llama")))[0]


def judge_trees(model: Any, runner: Runner, num_trees: int) -> Verdict:
    rng, verdict = random.Random(num_trees), Verdict()
    machine = Machine(runner, num_blocks=400)
    for _ in range(num_trees):
        for sequence in grow_tree(machine, rng, 512, num_requests=4):
            verdict.judge(model, sequence)
    return verdict


@pytest.mark.parametrize("window", [None, 1, 40, 700, 5000])
@pytest.mark.parametrize("has_sinks", [False, True])
def test_plain_attention_is_the_textbooks(window: int | None, has_sinks: bool) -> None:
    """Decode rows over one run and over several, and slices longer than a tile of queries."""
    rng = np.random.default_rng(window or 0)
    keys, values = (rng.standard_normal((2, 2048, 16), dtype=np.float32) for _ in range(2))
    sinks = 3 * rng.standard_normal(4, dtype=np.float32) if has_sinks else None
    scoring = Scoring(0.25, window, None if sinks is None else mx.array(sinks))
    for length, runs in [
        (1, [(32, 900)]),
        (1, [(64, 128), (512, 1400), (0, 9)]),
        (700, [(64, 128), (512, 1400)]),
    ]:
        queries = rng.standard_normal((4, length, 16), dtype=np.float32)
        k, v = (Pool(mx.array(rows), 16, None, mx.float32) for rows in (keys, values))
        found = attend_arrays(mx.array(queries[None]), k, v, [tuple(runs)], scoring)
        expected = naive.attend(queries, keys, values, runs, 0.25, window, sinks)
        np.testing.assert_allclose(np.array(found[0]), expected, rtol=1e-4, atol=2e-6)


def test_a_slice_reads_no_tile_outside_its_window() -> None:
    """What lies there is not a number, and would show."""
    total, length, window = 2000, 1500, 100
    keys = mx.random.normal((1, 1, total, 16))
    keys = mx.where(mx.arange(total)[:, None] < total - length - window, mx.nan, keys)
    out = attend_slice(mx.random.normal((1, 2, length, 16)), keys, keys, Scoring(1.0, window))
    assert not mx.isnan(out).any()


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt_oss"])
def test_the_way_to_the_kernels_is_exact(tmp_path: Path, model_type: str) -> None:
    model = mlx_lm.utils.load_model(write_model(tmp_path, model_type))[0]
    verdict = judge_trees(model, PlainRunner(model, 400, False, PlainKernels()), 12)
    assert verdict.wrong == 0
    assert verdict.tokens > 200


@needs_compiler
def test_graphs_are_compiled_once_for_a_layout_and_used_for_all_batches_of_it(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[Layouts] = []
    compile_graph = DecodeGraphs._compile

    def note(graphs: DecodeGraphs, layouts: Layouts) -> Graph:
        traced.append(layouts)
        return compile_graph(graphs, layouts)

    monkeypatch.setattr(DecodeGraphs, "_compile", note)
    machine = Machine(PlainRunner(model, 400, False, PlainKernels()), num_blocks=400)
    rng = random.Random(3)
    for num_sequences in (3, 5, 4):
        for _ in range(num_sequences):
            machine.add([rng.randrange(512) for _ in range(40)], 40)
        machine.finish()
    assert len(set(traced)) == len(traced), "none is compiled twice"
    assert {layouts[0][1].num_rows for layouts in traced} <= {1, 2, 3, 4, 6}, "batches of 5 are padded"
    assert len(traced) < machine.scheduler.counters.steps / 10


@needs_compiler
def test_a_batch_that_shrinks_is_served_by_the_graph_that_is_there(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_traced = 0
    compile_graph = DecodeGraphs._compile

    def count(graphs: DecodeGraphs, layouts: Layouts) -> Graph:
        nonlocal num_traced
        num_traced += 1
        return compile_graph(graphs, layouts)

    monkeypatch.setattr(DecodeGraphs, "_compile", count)
    verdict, rng = Verdict(), random.Random(5)
    machine = Machine(PlainRunner(model, 400, False, PlainKernels()), num_blocks=400)
    for length in (60, 20, 10, 5):
        machine.add([rng.randrange(512) for _ in range(length)], length)
    machine.finish()
    for sequence in machine.sequences:
        verdict.judge(model, sequence)
    assert verdict.wrong == 0
    assert num_traced <= 3


def test_a_model_that_cannot_be_compiled_still_works(
    model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> Any:
        raise ValueError("[eval] Attempting to eval an array during function transformations")

    monkeypatch.setattr(DecodeGraphs, "_compile", lambda *_: refuse)
    verdict = judge_trees(model, PlainRunner(model, 400, False, PlainKernels()), 2)
    assert verdict.wrong == 0
    assert caplog.text.count("cannot be compiled") == MAX_FAILURES


def test_kernels_that_agree_are_used(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = PlainKernels()
    monkeypatch.setattr(selfcheck, "find_kernels", lambda **_: kernels)
    monkeypatch.setattr(selfcheck, "Runner", PlainRunner)
    assert selfcheck.usable_kernels(model, 512) is kernels


@pytest.mark.parametrize(
    ("kernels", "reason"),
    [
        (WrongKernels(), "compute wrongly"),
        (ForgetfulKernels(), "compute wrongly"),
        (BrokenKernels(), "the compiler is missing"),
    ],
)
def test_kernels_that_fail_are_left_out_with_a_warning(
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kernels: PagedKernels,
    reason: str,
) -> None:
    monkeypatch.setattr(selfcheck, "find_kernels", lambda **_: kernels)
    monkeypatch.setattr(selfcheck, "Runner", PlainRunner)
    with caplog.at_level(logging.WARNING):
        assert selfcheck.usable_kernels(model, 512) is None
    assert reason in caplog.text


def test_without_a_gpu_there_are_no_kernels_to_check(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "find_kernels", lambda **_: None)
    assert selfcheck.usable_kernels(model, 512) is None


def test_sinks_are_left_to_plain_mlx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = mlx_lm.utils.load_model(write_model(tmp_path / "gpt_oss", "gpt_oss"))[0]
    monkeypatch.setattr(selfcheck, "find_kernels", lambda **_: PlainKernels())
    assert selfcheck.usable_kernels(model, 512) is None
    assert "sinks" in caplog.text


def share_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few short rows share their reads."""
    sizes = {"SHARED_ROWS": 1, "SHARED_SLOTS": 64, "SHARED_TILE": 96, "MIN_ITEM": 64}
    for name, value in sizes.items():
        monkeypatch.setattr(tables, name, value)


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
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt_oss", "qwen2"])
def test_the_kernels_text_behind_the_runner_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    """In C++, which cannot be a part of a compiled graph."""
    monkeypatch.setattr(graphs, "MAX_FAILURES", 0)
    share_early(monkeypatch)
    (tmp_path / "kernels").mkdir()
    model = mlx_lm.utils.load_model(write_model(tmp_path / model_type, model_type))[0]
    runner = Runner(model, 400, False, CppKernels(tmp_path / "kernels", centres_keys=model_type == "qwen2"))
    assert judge_stems(model, runner, max_tokens=12).wrong == 0
    assert judge_trees(model, runner, 2).wrong == 0


@needs_gpu
@pytest.mark.parametrize("model_type", ["llama", "phi3", "gemma3_text"])
def test_the_kernels_of_this_device_are_exact(tmp_path: Path, model_type: str) -> None:
    model = mlx_lm.utils.load_model(write_model(tmp_path / model_type, model_type))[0]
    assert selfcheck.usable_kernels(model, 512) is not None
    verdict = judge_trees(model, Runner(model, 400, False, find_kernels()), 30)
    # Where MLX multiplies in tf32, near ties change places in the reference as well.
    assert verdict.wrong <= verdict.tokens / 100


@needs_gpu
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_shared_reads_in_compiled_graphs_are_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    share_early(monkeypatch)
    model = mlx_lm.utils.load_model(write_model(tmp_path / model_type, model_type))[0]
    verdict = judge_stems(model, Runner(model, 400, False, find_kernels()), max_tokens=40)
    assert verdict.wrong <= verdict.tokens / 100
