import random
from typing import Any

import pytest

from pensieve.engine.attention.kernels.batch_tables import BatchLayout
from pensieve.engine.attention.paged_model import probe
from pensieve.engine.decode_graphs import MAX_FAILURES, DecodeGraphs, Graph
from pensieve.engine.paged_caches import Capacity

from .attention.compiled import needs_compiler
from .attention.plain_kernels import PlainKernels, PlainRunner
from .harness import Machine, Verdict, judge_trees


@needs_compiler
def test_graphs_are_compiled_once_for_a_layout_and_used_for_all_batches_of_it(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[BatchLayout] = []
    compile_graph = DecodeGraphs._compile

    def note(graphs: DecodeGraphs, batch_layout: BatchLayout, mover: Any) -> Graph:
        traced.append(batch_layout)
        return compile_graph(graphs, batch_layout, mover)

    monkeypatch.setattr(DecodeGraphs, "_compile", note)
    machine = Machine(PlainRunner(probe(model, 16), Capacity(400), False, PlainKernels()), num_blocks=400)
    rng = random.Random(3)
    for num_sequences in (3, 5, 4):
        for _ in range(num_sequences):
            machine.add([rng.randrange(512) for _ in range(40)], 40)
        machine.finish()
    assert len(set(traced)) == len(traced), "none is compiled twice"
    assert {batch_layout[0].layout.num_rows for batch_layout in traced} <= {1, 2, 3, 4, 6}, (
        "batches of 5 are padded"
    )
    assert len(traced) < machine.scheduler.counters.steps / 10


@needs_compiler
def test_a_batch_that_shrinks_is_served_by_the_graph_that_is_there(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_traced = 0
    compile_graph = DecodeGraphs._compile

    def count(graphs: DecodeGraphs, batch_layout: BatchLayout, mover: Any) -> Graph:
        nonlocal num_traced
        num_traced += 1
        return compile_graph(graphs, batch_layout, mover)

    monkeypatch.setattr(DecodeGraphs, "_compile", count)
    verdict, rng = Verdict(), random.Random(5)
    machine = Machine(PlainRunner(probe(model, 16), Capacity(400), False, PlainKernels()), num_blocks=400)
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
    verdict = judge_trees(model, PlainRunner(probe(model, 16), Capacity(400), False, PlainKernels()), 2)
    assert verdict.wrong == 0
    assert caplog.text.count("cannot be compiled") == MAX_FAILURES
