"""The kernels' own text under the runner, on the CPU: each launch evaluates its inputs and calls C++."""

from typing import Any

import mlx.core as mx
import numpy as np

from pensieve.engine.attention.kernels.layer_kernels import Launch
from pensieve.engine.attention.kernels.paged_kernels import PagedKernels
from pensieve.engine.attention.kernels.source import Kernel

from .compiled import compile_unaligned, launch


class CppKernels(PagedKernels):
    """As on a GPU, pools are written in place. Only float32."""

    def __init__(self) -> None:
        super().__init__("cpp")

    def _build(self, kernel: Kernel, scale: float, workspace_bytes: int = 0) -> Launch:
        libraries: dict[str, Any] = {}

        def run(
            inputs: list[mx.array],
            template: list[tuple[str, Any]],
            grid: tuple[int, int, int],
            threadgroup: tuple[int, int, int],
            output_shapes: list[tuple[int, ...]],
            **_: Any,
        ) -> list[mx.array]:
            constants = {name: int(value) for name, value in template if not isinstance(value, mx.Dtype)}
            key = repr(constants)
            if key not in libraries:
                libraries[key] = compile_unaligned(kernel, constants, scale)
            mx.eval(inputs)
            arrays = [np.ascontiguousarray(array) for array in inputs]
            outputs = [np.zeros(shape, np.float32) for shape in output_shapes]
            launch(libraries[key], kernel, arrays, outputs, (grid[0] // threadgroup[0], grid[1]))
            return [mx.array(output) for output in outputs]

        return run
