"""Kernels' own text in C++ for arrays of any type, by the launches' own constants."""

from typing import Any

import mlx.core as mx
import numpy as np

from pensieve.engine.attention.kernels.source import THREADS, Kernel

from .compiled import Array, compile_kernel, launch


def typed_launcher(kernel: Kernel, scale: float, workspace_bytes: int = 0) -> Any:
    """As PagedKernels.launcher; evaluates its inputs at once."""

    def run(
        inputs: list[mx.array],
        template: Any,
        grid: Any,
        output_shapes: Any,
        output_dtypes: Any,
        **_: Any,
    ) -> list[mx.array]:
        constants = {name: int(value) for name, value in template if name != "T"}
        dtype = dict(template).get("T", mx.float32)
        library = compile_kernel(kernel, constants, scale, str(dtype).rpartition(".")[2])
        kinds = list(zip(output_shapes, output_dtypes, strict=True))
        outputs = [to_numpy(mx.zeros(shape, dtype)) for shape, dtype in kinds]
        launch(library, kernel, list(map(to_numpy, inputs)), outputs, (grid[0] // THREADS, grid[1]))
        return [mx.array(out).view(dtype) for out, (_, dtype) in zip(outputs, kinds, strict=True)]

    return run


def to_numpy(array: mx.array) -> Array:
    """The array's memory; bfloat16 as its bits, whole numbers of any type as 32 bits."""
    if array.dtype == mx.bfloat16:
        return np.array(array.view(mx.uint16))
    return np.array(array if mx.issubdtype(array.dtype, mx.floating) else array.astype(mx.int32))
