"""The kernels of one layer's attention, with the constants that they are compiled for."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import mlx.core as mx

from .geometry import Geometry, TileGeometry
from .hopper import HopperGeometry
from .source import COMBINE, SPLIT, SPLIT_TILES, THREADS, TILES, Kernel, Language
from .tables import LayerKind

DTYPES = (mx.float16, mx.bfloat16, mx.float32)

Launch = Callable[..., list[mx.array]]
"""Queues one kernel: takes inputs, grid and so on as MLX's kernels do; returns the outputs, lazy."""

Partials = tuple[mx.array, mx.array]
"""Softmaxes over parts of the tokens: (n, num_heads, value_dim) sums of values, and each peak and mass."""

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


class PartialKernel(NamedTuple):
    """A kernel that reads splits or tiles and returns their partials, compiled for a layer."""

    launch: Launch
    queries: int  # of a tile; 1 of a split
    groups: int  # thread groups for a split or tile and a KV head
    threads: int  # of a thread group
    value_dim: int

    def attend(self, inputs: list[mx.array], count: int, num_kv_heads: int) -> Partials:
        """Return the partials of `count` splits or tiles. inputs: the kernel's, the queries first."""
        num_partials, num_heads = count * self.queries, inputs[0].shape[1]
        outs, stats = self.launch(
            inputs=inputs,
            grid=(self.threads * count, num_kv_heads * self.groups, 1),
            output_shapes=[(num_partials, num_heads, self.value_dim), (num_partials, num_heads, 2)],
        )
        return outs, stats


@dataclass(frozen=True, slots=True)
class LayerKernels:
    """The passes of a layer's attention, compiled for one AttentionShape and window."""

    splits: PartialKernel
    splits_are_tiles: bool  # whether `splits` reads splits as tiles of one row, and stores keys only
    tiles: dict[bool, PartialKernel]  # by whether the queries are a prompt's slice; empty where unsupported
    combine: Launch
    value_dim: int

    def kind(self, num_kv_heads: int, window: int | None, is_slice: bool) -> LayerKind:
        """Return the kind of layers whose tables these kernels read."""
        tiles = self.tiles.get(is_slice)
        tile_queries, tile_groups = (tiles.queries, num_kv_heads * tiles.groups) if tiles else (0, 0)
        if is_slice:
            return LayerKind(tile_groups, 0, tile_queries, window)
        num_groups = num_kv_heads * self.splits.groups
        return LayerKind(tile_groups, num_groups, tile_queries, window, self.splits_are_tiles)


def are_served(device: KernelDevice, shape: AttentionShape) -> bool:
    """Return whether kernels can serve decode rows of a layer."""
    if shape.dtype not in DTYPES:
        return False
    tiling = find_tiling(shape.geometry, device, is_slice=False)
    return shape.geometry.has_splits or _has_tiles(device, tiling)


def build_layer(
    launcher: Launcher, device: KernelDevice, shape: AttentionShape, window: int | None
) -> LayerKernels:
    """Declare the kernels of a layer. Raises NotImplementedError for a layer that they cannot serve."""
    geometry, dtype = shape.geometry, shape.dtype
    if not are_served(device, shape):
        sizes = f"{geometry.dim} and {geometry.value_dim}"
        raise NotImplementedError(f"{geometry.group} heads of {sizes} to a KV head, {dtype}")

    def declare(tiling: TileGeometry | HopperGeometry, kernel: Kernel) -> PartialKernel:
        launch = partial(
            launcher(kernel, shape.scale, tiling.workspace_bytes),
            template=[("T", dtype), ("WINDOW", window or 0), *tiling.constants.items()],
            threadgroup=(tiling.threads, 1, 1),
            output_dtypes=[mx.float32, mx.float32],
        )
        return PartialKernel(launch, tiling.queries, tiling.head_tiles, tiling.threads, geometry.value_dim)

    tiles: dict[bool, PartialKernel] = {}
    for is_slice in (False, True):
        tiling = find_tiling(geometry, device, is_slice)
        if _has_tiles(device, tiling):
            tiles[is_slice] = declare(tiling, tile_kernel(tiling, dtype))
    if geometry.has_splits:
        launch = partial(
            launcher(SPLIT, shape.scale),
            template=[("T", dtype), *geometry.constants.items()],
            threadgroup=(THREADS, 1, 1),
            output_dtypes=[mx.float32, mx.float32],
        )
        splits = PartialKernel(launch, 1, geometry.tiles, THREADS, geometry.value_dim)
    else:
        tiling = TileGeometry(geometry, device.language, is_slice=False, is_single=True)
        splits = declare(tiling, SPLIT_TILES)
    combine = partial(
        launcher(COMBINE, 0.0),
        template=[("T", dtype), ("HAS_SINKS", shape.has_sinks), ("VALUE_DIM", geometry.value_dim)],
        threadgroup=(THREADS, 1, 1),
        output_dtypes=[dtype, mx.float32],
    )
    return LayerKernels(splits, not geometry.has_splits, tiles, combine, geometry.value_dim)


def _has_tiles(device: KernelDevice, tiling: TileGeometry | HopperGeometry) -> bool:
    return device.has_tiles and tiling.is_supported


def find_tiling(geometry: Geometry, device: KernelDevice, is_slice: bool) -> TileGeometry | HopperGeometry:
    """Return how a layer's tiles are read, of shared stretches or of prompts' slices."""
    hopper = HopperGeometry(geometry)
    if is_slice and device.has_wgmma and hopper.is_supported:
        return hopper
    return TileGeometry(geometry, device.language, is_slice)


def tile_kernel(tiling: TileGeometry | HopperGeometry, dtype: mx.Dtype) -> Kernel:
    """Return the kernel that reads such tiles."""
    if isinstance(tiling, HopperGeometry):
        return tiling.kernel("bf16" if dtype == mx.bfloat16 else "f16")
    return TILES
