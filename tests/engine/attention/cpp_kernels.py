"""The kernels' own text under the runner, on the CPU: each launch evaluates its inputs and calls C++."""

from typing import Any

import mlx.core as mx
import numpy as np

from pensieve.engine.attention.kernels.layer_kernels import Launch
from pensieve.engine.attention.kernels.paged_kernels import PagedKernels
from pensieve.engine.attention.kernels.source import THREADS, Kernel

from .compiled import Array, compile_kernel, launch


def aligned(view: Array) -> Array:
    """The array itself, or a copy: MLX's own need not be aligned for vectors, nor without gaps."""
    is_aligned = view.flags.c_contiguous and view.ctypes.data % 16 == 0
    return view if is_aligned else np.array(view, order="C")


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
            copies = {id(array): aligned(np.asarray(array)) for array in inputs}
            arrays = [copies[id(array)] for array in inputs]  # keys that contain values come twice
            outputs = [np.zeros(shape, np.float32) for shape in output_shapes]
            launch(libraries[key], kernel, arrays, outputs, (grid[0] // THREADS, grid[1]))
            for name, given, array in zip(kernel.inputs, inputs, arrays, strict=True):
                if name in ("keys", "values", "pool") and not np.shares_memory(
                    view := np.asarray(given), array
                ):
                    view[:] = array
            return [mx.array(output) for output in outputs]

        return run
