"""MLX's graph of a forward pass, with a node for each launch of a kernel, on a device that has no kernels."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import mlx.core as mx

from pensieve.engine.attention.kernels.layer_kernels import Launch
from pensieve.engine.attention.kernels.paged_kernels import PagedKernels
from pensieve.engine.attention.kernels.source import Kernel

LAUNCH = "Depends"
VIEWS = ("Slice", "ExpandDims", "Squeeze", "Transpose", "Unflatten", "Broadcast")
"""Primitives that read nothing; a reshape may copy."""


class NotedKernels(PagedKernels):
    """Compute nothing; each launch is a node of MLX's graph, with the edges that a kernel has."""

    def _build(self, kernel: Kernel, scale: float, workspace_bytes: int = 0) -> Launch:
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
