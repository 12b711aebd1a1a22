"""Kernels write to pools in place, unknown to MLX: what reads a pool must itself wait for the last write.

A device is free to run at once whatever has no path between it in MLX's graph.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest

from pensieve.cache.blocks import BlockTable
from pensieve.cache.kv import ArrayPools
from pensieve.engine.attention.kernels import tables
from pensieve.engine.attention.kernels.paged_kernels import Launch, PagedKernels
from pensieve.engine.attention.kernels.source import Kernel
from pensieve.engine.attention.paged_model import probe
from pensieve.engine.runner import Runner
from pensieve.engine.step import DecodeRow, PrefillChunk, SamplingParams

from ...models import write_model

LAUNCH = "Depends"
VIEWS = ("Slice", "ExpandDims", "Squeeze", "Transpose", "Unflatten", "Broadcast")
"""Primitives that read nothing; a reshape may copy."""


class NotedKernels(PagedKernels):
    """Compute nothing; each launch is a node of MLX's graph, with the edges that a kernel has."""

    def __init__(self, centres_keys: bool) -> None:
        super().__init__("cuda", centres_keys)

    def _build(self, kernel: Kernel, scale: float) -> Launch:
        def launch(
            inputs: list[mx.array], output_shapes: Any, output_dtypes: Any, **_: Any
        ) -> list[mx.array]:
            empty = [mx.zeros(*each) for each in zip(output_shapes, output_dtypes, strict=True)]
            found: list[mx.array] = mx.depends(empty, inputs)
            return found

        return launch


class Graph:
    """MLX's graph of some arrays: which primitive makes what of what."""

    primitives: dict[str, str]  # by node

    def __init__(self, file: Path, outputs: list[mx.array], names: dict[str, mx.array]) -> None:
        mx.export_to_dot(str(file), *outputs, **names)
        text = file.read_text()
        self.primitives = dict(re.findall(r'\{ (\d+) \[label ="(\w+)"', text))
        self.inputs, self.outputs, self.users = (defaultdict[str, list[str]](list) for _ in range(3))
        self.makers: dict[str, str] = {}
        for array, node in re.findall(r'^"(\w+)" -> (\d+)$', text, re.MULTILINE):
            self.inputs[node].append(array)
            self.users[array].append(node)
        for node, array in re.findall(r'^(\d+) -> "(\w+)"$', text, re.MULTILINE):
            self.outputs[node].append(array)
            self.makers[array] = node

    def is_launch(self, node: str) -> bool:
        return self.primitives[node] == LAUNCH

    def readers(self, array: str) -> set[str]:
        """The nodes that read an array or a view of it, launches apart."""
        found, pending = set(), [array]
        while pending:
            for node in self.users[pending.pop()]:
                if self.primitives[node] in VIEWS:
                    pending += self.outputs[node]
                elif not self.is_launch(node):
                    found.add(node)
        return found

    def waits(self, node: str, array: str) -> bool:
        """Whether a node runs after a launch that was given an array."""
        seen: set[str] = set()
        pending = [node]
        while pending:
            inputs = self.inputs[pending.pop()]
            before = {self.makers[each] for each in inputs if each in self.makers} - seen
            if any(self.is_launch(each) and array in self.inputs[each] for each in before):
                return True
            seen |= before
            pending += before
        return False


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """A compiled function's node would stand for all of its calls."""
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt_oss", "qwen2"])
def test_whatever_reads_a_pool_waits_for_its_last_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    """Slices of one token and of several, over one run and over two, then rows that share a stretch.

    Where keys were centred, their mean was once made without waiting.
    """
    for name, value in {"SHARED_ROWS": 1, "SHARED_SLOTS": 32}.items():
        monkeypatch.setattr(tables, name, value)
    model = mlx_lm.utils.load_model(write_model(tmp_path / model_type, model_type))[0]
    kernels = NotedKernels(centres_keys=model_type == "qwen2")
    runner = Runner(probe(model, 16), 16, on_host=False, kernels=kernels)
    pools, rows = runner._pools, []
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
    assert any(readers.values())
    for name, nodes in readers.items():
        hasty = [graph.primitives[node] for node in nodes if not graph.waits(node, name)]
        assert not hasty, f"of {name}, without waiting"
        first = [node for node in graph.users[name] if graph.is_launch(node) and not graph.waits(node, name)]
        assert len(first) == 1, "launches wait for one another"
