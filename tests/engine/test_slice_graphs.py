"""Prompts' slices as graphs: padded, compiled once for a layout, and right."""

from typing import Any

import mlx.core as mx
import pytest

from pensieve.cache.kv import ArrayPools
from pensieve.engine.attention.kernels.batch_tables import BatchLayout
from pensieve.engine.attention.kernels.tables import LayerKind
from pensieve.engine.attention.kernels.tiles import make_slice_tables
from pensieve.engine.attention.paged_model import PagedModel, probe
from pensieve.engine.decode_graphs import MAX_FAILURES
from pensieve.engine.fused_model import fuse
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.runner import Runner
from pensieve.engine.selfcheck import logits_error
from pensieve.engine.slice_graphs import Graph, SliceGraphs, padded_size
from pensieve.engine.trial_sequence import TrialSequence

from .attention.compiled import needs_compiler
from .attention.cpp_kernels import CppKernels
from .attention.noted_kernels import NotedKernels
from .recurrent_models import CONFIGS, recurrent_model
from .test_recurrent_states import in_kernels

SIZES = [9, 64, 12, 65, 100]
"""Tokens of slices, one after another: the last two are padded to 128, the others to 64."""


def prefilled(runner: Runner, paged: PagedModel) -> mx.array:
    """The logits after a prompt in slices of SIZES."""
    sequence, at = TrialSequence(paged, 0, list(range(1, 10))), 0
    for size in SIZES:
        runner.prefill(sequence.chunk(at, at + size))
        at += size
    return runner.logits([sequence.row(at)])


@needs_compiler
@pytest.mark.parametrize("key_dim", [0, 16, 32])
def test_slices_in_graphs_leave_what_slices_without_leave(
    model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, key_dim: int
) -> None:
    """key_dim: of recurrent layers; those of 16 mlx-lm computes, those of 32 kernels; 0 for none."""
    mx.disable_compile()  # C++ computes at once, and cannot be traced
    sizes: list[int] = []
    run = SliceGraphs._run

    def note(graphs: SliceGraphs, graph: Graph, chunk: Any, found: Any, *pools: Any) -> None:
        sizes.append(len(chunk.tokens))
        run(graphs, graph, chunk, found, *pools)

    monkeypatch.setattr(SliceGraphs, "_run", note)
    monkeypatch.setitem(CONFIGS, "qwen3_next", CONFIGS["qwen3_next"] | {"linear_key_head_dim": key_dim})
    is_recurrent = key_dim > 0
    paged = probe(recurrent_model("qwen3_next") if is_recurrent else model, 16)
    runner = in_kernels(paged) if is_recurrent else Runner(paged, Capacity(20), False, CppKernels())
    logits = prefilled(runner, paged)
    # The first slice of a recurrent model has no state yet, and no graph.
    assert sizes == ([12, 100] if is_recurrent else [64, 12, 100])
    assert ("for prompts cannot be used" in caplog.text) == (key_dim == 16)
    runner._slice_graphs = None
    expected = prefilled(runner, paged)
    mx.enable_compile()
    assert float(mx.abs(logits - expected).max() / mx.abs(expected).max()) < 1e-5


def test_a_layout_is_traced_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[BatchLayout] = []
    compile_graph = SliceGraphs._compile

    def note(graphs: SliceGraphs, layout: BatchLayout, mover: Any) -> Graph:
        traced.append(layout)
        return compile_graph(graphs, layout, mover)

    monkeypatch.setattr(SliceGraphs, "_compile", note)
    paged = fuse(probe(model, 16))
    runner = Runner(paged, Capacity(20), False, NotedKernels("cpp"))
    for _ in range(3):
        mx.eval(prefilled(runner, paged))
    assert runner._slice_graphs is not None
    assert runner._slice_graphs._num_failures == 0
    assert [layout[0].layout.num_queries for layout in traced] == [64, 128]
    assert isinstance(runner.caches.pools, ArrayPools)


@needs_compiler
def test_a_graph_that_cannot_be_traced_costs_nothing_but_speed(
    model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no graph")

    monkeypatch.setattr(SliceGraphs, "_run", fail)
    paged = probe(model, 16)
    assert logits_error(paged, on_host=False, kernels=CppKernels()) <= 1
    runner = Runner(paged, Capacity(20), False, CppKernels())
    prefilled(runner, paged)
    assert runner._slice_graphs is not None
    assert runner._slice_graphs._num_failures == MAX_FAILURES
    assert "no graph" in caplog.text


def test_few_layouts_serve_all_contexts() -> None:
    kind, layouts = LayerKind(8, 0, 16, window=None), set()
    for total in (40, 64 * 32, 5_000, 8_192, 20_000, 32_768, 60_000, 128_000):
        for length in (1, 40, 64, 65, 300, 1024):
            if length <= total:
                tables = make_slice_tables(((0, total),), length, kind, padded_size(length))
                layouts.add(tables.layout)
    assert {layout.num_blocks for layout in layouts} == {64, 256, 1024, 4096}
    assert len(layouts) <= 4 * 4
