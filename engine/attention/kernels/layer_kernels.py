"""The kernels of one layer's attention, with the constants that they are compiled for."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import mlx.core as mx

from .source import COMBINE, SPLIT, THREADS, TILES, Geometry, Language, TileGeometry

DTYPES = (mx.float16, mx.bfloat16, mx.float32)

Launch = Callable[..., list[mx.array]]
"""Queues one kernel: takes inputs, grid and so on as MLX's kernels do; returns the outputs, lazy."""

Launcher = Callable[..., Launch]
"""Declares a kernel to MLX: takes the kernel, the scale of its scores, and bytes of shared memory."""


class AttentionShape(NamedTuple):
    """The compile-time constants of a layer's attention, but for its window."""

    geometry: Geometry
    dtype: mx.Dtype
    scale: float
    has_sinks: bool


@dataclass(frozen=True, slots=True)
class LayerKernels:
    """The passes of a layer's attention, compiled for one AttentionShape and window."""

    split: Launch
    tiles: dict[bool, Launch]  # by whether the queries are a prompt's slice; empty where unsupported
    combine: Launch


def build_layer(
    launcher: Launcher, language: Language, shape: AttentionShape, window: int | None
) -> LayerKernels:
    """Declare the kernels of a layer. Raises NotImplementedError for a layer that they cannot serve."""
    geometry, dtype = shape.geometry, shape.dtype
    if dtype not in DTYPES or not geometry.is_supported:
        raise NotImplementedError(f"{geometry.group} heads of {geometry.dim} to a KV head, {dtype}")
    partials = {"threadgroup": (THREADS, 1, 1), "output_dtypes": [mx.float32, mx.float32]}
    split = partial(
        launcher(SPLIT, shape.scale), template=[("T", dtype), *geometry.constants.items()], **partials
    )
    combine = partial(
        launcher(COMBINE, 0.0),
        template=[("T", dtype), ("HAS_SINKS", shape.has_sinks), ("DIM", geometry.dim)],
        threadgroup=(THREADS, 1, 1),
        output_dtypes=[dtype, mx.float32],
    )
    tiles: dict[bool, Launch] = {
        tiling.is_slice: partial(
            launcher(TILES, shape.scale, tiling.workspace_bytes),
            template=[("T", dtype), ("WINDOW", window or 0), *tiling.constants.items()],
            **partials,
        )
        for tiling in (TileGeometry(geometry, language, is_slice) for is_slice in (False, True))
        if tiling.is_supported
    }
    return LayerKernels(split, tiles, combine)
