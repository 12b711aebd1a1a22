"""The kernels' own text under the runner, on the CPU: each launch evaluates its inputs and calls C++."""

from typing import Any

import mlx.core as mx
import numpy as np

from pensieve.engine.attention.kernels.layer_kernels import Launch
from pensieve.engine.attention.kernels.paged_kernels import PagedKernels
from pensieve.engine.attention.kernels.source import THREADS, Kernel

from .compiled import compile_kernel, launch


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
            output_shapes: list[tuple[int, ...]],
            **_: Any,
        ) -> list[mx.array]:
            constants = {name: int(value) for name, value in template if not isinstance(value, mx.Dtype)}
            key = repr(constants)
            if key not in libraries:
                libraries[key] = compile_kernel(kernel, constants, scale)
            mx.eval(inputs)
            views = [np.asarray(array) for array in inputs]
            arrays = [
                np.array(view, order="C") for view in views
            ]  # MLX's own need not be aligned for vectors
            outputs = [np.zeros(shape, np.float32) for shape in output_shapes]
            launch(libraries[key], kernel, arrays, outputs, (grid[0] // THREADS, grid[1]))
            for name, view, array in zip(kernel.inputs, views, arrays, strict=True):
                if name in ("keys", "values"):
                    view[:] = array
            return [mx.array(output) for output in outputs]

        return run
