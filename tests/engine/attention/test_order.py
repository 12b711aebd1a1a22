"""Kernels write to pools in place, unknown to MLX: what reads a pool must itself wait for the last write.

A device is free to run at once whatever has no path between it in MLX's graph.
"""

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import mlx_lm.utils
import pytest

from pensieve.cache.blocks import BlockTable
from pensieve.cache.kv import ArrayPools
from pensieve.engine.attention.kernels import decode_tables
from pensieve.engine.attention.kernels.source import Language
from pensieve.engine.attention.paged_model import probe
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.runner import Runner
from pensieve.engine.step import DecodeRow, PrefillChunk, SamplingParams

from ...families.random_model import random_model
from ...models import write_model
from .noted_kernels import Graph, NotedKernels


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """A compiled function's node would stand for all of its calls."""
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("language", ["cpp", "metal"])
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt_oss", "deepseek_v3"])
def test_whatever_reads_a_pool_waits_for_its_last_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str, language: Language
) -> None:
    """Slices of one token and of several, over one run and over two, then rows that share a stretch."""
    for name in ("MIN_SHARED", "MIN_SAVED"):
        monkeypatch.setattr(decode_tables, name, 32)
    if model_type == "deepseek_v3":
        model = random_model(model_type)
    else:
        model = mlx_lm.utils.load_model(write_model(tmp_path / model_type, model_type))[0]
    kernels = NotedKernels(language)
    runner = Runner(probe(model, 16), Capacity(16), on_host=False, kernels=kernels)
    pools, rows = runner.caches.pools, []
    assert isinstance(pools, ArrayPools)
    mx.eval(pools.arrays())
    for seq_id, (blocks, length) in enumerate([([3, 4, 1], 90), ([3, 4, 2], 70), ([5], 2)]):
        table = BlockTable()
        table.extend(blocks)
        runner.prefill(PrefillChunk(seq_id, [7] * (length - 1), 0, table.slot_ranges(length - 1)))
        rows.append(DecodeRow(seq_id, 7, length - 1, table.slot_ranges(length), SamplingParams()))
    names = {f"pool{i}": rows for i, rows in enumerate(pools.arrays())}
    graph = Graph(tmp_path / "graph", [runner.logits(rows), *pools.write_fences], names)
    readers = {name: graph.readers(name) for name in names}
    assert any(readers.values()) == (language == "metal"), "elsewhere launches alone read pools"
    for name, nodes in readers.items():
        hasty = [graph.primitives[node] for node in nodes if not graph.waits(node, name)]
        assert not hasty, f"of {name}, without waiting"
        first = {node for node in graph.users[name] if graph.is_launch(node) and not graph.waits(node, name)}
        assert len(first) == 1, "launches wait for one another"
