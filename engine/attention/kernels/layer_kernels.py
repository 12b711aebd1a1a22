"""The kernels of one layer's attention, with the constants that they are compiled for."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import mlx.core as mx

from .hopper import HopperGeometry
from .source import COMBINE, SPLIT, THREADS, TILES, Geometry, Kernel, Language, TileGeometry

DTYPES = (mx.float16, mx.bfloat16, mx.float32)

Launch = Callable[..., list[mx.array]]
"""Queues one kernel: takes inputs, grid and so on as MLX's kernels do; returns the outputs, lazy."""

Launcher = Callable[..., Launch]
"""Declares a kernel to MLX: takes the kernel, the scale of its scores, and bytes of shared memory."""


class KernelDevice(NamedTuple):
    """What decides which kernels a device runs."""

    language: Language
    has_wgmma: bool = False  # Hopper's matrix units, which no GPU before or after it has
    has_tiles: bool = True  # whether the kernels that read tiles are used


class AttentionShape(NamedTuple):
    """The compile-time constants of a layer's attention, but for its window."""

    geometry: Geometry
    dtype: mx.Dtype
    scale: float
    has_sinks: bool


class TileKernel(NamedTuple):
    """A kernel that reads tiles, compiled for a layer."""

    launch: Launch
    queries: int  # of a tile
    threads: int  # of a thread group


@dataclass(frozen=True, slots=True)
class LayerKernels:
    """The passes of a layer's attention, compiled for one AttentionShape and window."""

    split: Launch
    tiles: dict[bool, TileKernel]  # by whether the queries are a prompt's slice; empty where unsupported
    combine: Launch


def build_layer(
    launcher: Launcher, device: KernelDevice, shape: AttentionShape, window: int | None
) -> LayerKernels:
    """Declare the kernels of a layer. Raises NotImplementedError for a layer that they cannot serve."""
    geometry, dtype = shape.geometry, shape.dtype
    if dtype not in DTYPES or not geometry.is_supported:
        raise NotImplementedError(f"{geometry.group} heads of {geometry.dim} to a KV head, {dtype}")
    split = partial(
        launcher(SPLIT, shape.scale),
        template=[("T", dtype), *geometry.constants.items()],
        threadgroup=(THREADS, 1, 1),
        output_dtypes=[mx.float32, mx.float32],
    )
    combine = partial(
        launcher(COMBINE, 0.0),
        template=[("T", dtype), ("HAS_SINKS", shape.has_sinks), ("DIM", geometry.dim)],
        threadgroup=(THREADS, 1, 1),
        output_dtypes=[dtype, mx.float32],
    )
    tiles: dict[bool, TileKernel] = {}
    for is_slice in (False, True):
        tiling = _tiling(geometry, device, is_slice)
        if device.has_tiles and tiling.is_supported:
            launch = partial(
                launcher(tile_kernel(tiling, dtype), shape.scale, tiling.workspace_bytes),
                template=[("T", dtype), ("WINDOW", window or 0), *tiling.constants.items()],
                threadgroup=(tiling.threads, 1, 1),
                output_dtypes=[mx.float32, mx.float32],
            )
            tiles[is_slice] = TileKernel(launch, tiling.queries, tiling.threads)
    return LayerKernels(split, tiles, combine)


def _tiling(geometry: Geometry, device: KernelDevice, is_slice: bool) -> TileGeometry | HopperGeometry:
    hopper = HopperGeometry(geometry)
    if is_slice and device.has_wgmma and hopper.is_supported:
        return hopper
    return TileGeometry(geometry, device.language, is_slice)


def tile_kernel(tiling: TileGeometry | HopperGeometry, dtype: mx.Dtype) -> Kernel:
    """Return the kernel that reads such tiles."""
    if isinstance(tiling, HopperGeometry):
        return tiling.kernel("bf16" if dtype == mx.bfloat16 else "f16")
    return TILES
