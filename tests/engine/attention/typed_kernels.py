"""Kernels' own text in C++ for arrays of any type, by the launches' own constants."""

import ctypes
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from pensieve.engine.attention.kernels.source import Kernel

from .compiled import FIXED, Array, compile_kernel, launch, races

WRITTEN = ("pool", "conv_state", "state")
"""Inputs that a kernel with a write fence writes to."""


@dataclass
class TypedLauncher:
    """As PagedKernels.launcher; evaluates its inputs at once. What a kernel leaves unwritten is NaN.

    watched: count in `races` how often threads meet in shared memory without a barrier between.
    """

    watched: bool = False
    races: int = 0

    def __call__(self, kernel: Kernel, scale: float, workspace_bytes: int = 0) -> Any:
        def run(
            inputs: list[mx.array],
            template: Any,
            grid: Any,
            threadgroup: Any,
            output_shapes: Any,
            output_dtypes: Any,
        ) -> list[mx.array]:
            constants = {name: int(value) for name, value in template if name != "T"}
            dtype = dict(template).get("T", mx.float32)
            given = list(zip(kernel.inputs, inputs, strict=True))
            wide = tuple(name for name, array in given if array.dtype == mx.float32 != dtype)
            library = compile_kernel(kernel, constants, scale, name_of(dtype), self.watched, wide)
            arrays = [to_numpy(_as_declared(name, array)) for name, array in given]
            kinds = list(zip(output_shapes, output_dtypes, strict=True))
            outputs = [to_numpy(_unwritten(shape, dtype)) for shape, dtype in kinds]
            before = races(library) if self.watched else 0
            launch(library, kernel, arrays, outputs, (grid[0] // threadgroup[0], grid[1]))
            self.races += races(library) - before if self.watched else 0
            if "write_fence" in kernel.inputs:
                for (name, array), after in zip(given, arrays, strict=True):
                    if name in WRITTEN:
                        _put_back(array, after)
            return [mx.array(out).view(dtype) for out, (_, dtype) in zip(outputs, kinds, strict=True)]

        return run


def typed_launcher(kernel: Kernel, scale: float, workspace_bytes: int = 0) -> Any:
    """As TypedLauncher, for those that count no races."""
    return TypedLauncher()(kernel, scale, workspace_bytes)


def name_of(dtype: mx.Dtype) -> str:
    """The type's name, as NumPy knows it."""
    return str(dtype).rpartition(".")[2]


def to_numpy(array: mx.array) -> Array:
    """The array's memory; bfloat16 as its bits, whole numbers of any type as 32 bits."""
    if array.dtype == mx.bfloat16:
        return np.array(array.view(mx.uint16))
    return np.array(array if mx.issubdtype(array.dtype, mx.floating) else array.astype(mx.int32))


def _as_declared(name: str, array: mx.array) -> mx.array:
    return array.astype(mx.float32) if FIXED.get(name) == "float" else array


def _unwritten(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    return mx.full(shape, float("nan") if mx.issubdtype(dtype, mx.floating) else 0, dtype)


def _put_back(array: mx.array, after: Array) -> None:
    """Let an array have what a kernel left in a copy of it."""
    memory = np.ascontiguousarray(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)
    ctypes.memmove(memory.ctypes.data, after.ctypes.data, memory.nbytes)
