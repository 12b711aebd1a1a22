"""Paged attention on Metal and CUDA: launches the kernels.

The kernels write new keys and values into the pools in place. MLX would copy a whole pool instead, whenever
an earlier step that reads it is still on the device (a buffer in use is not donated), and it does not know of
these writes. So each layer has a chain of small arrays, its write fences: every kernel that reads or writes
the layer's pools takes the last fence, and every write returns the next one.
"""

import hashlib
from functools import cache, partial
from typing import Any, NamedTuple

import mlx.core as mx

from ....cache.blocks import BLOCK_SIZE
from ....cache.kv import MIN_KERNEL_ELEMENTS, ArrayPools, Pool
from ...step import SlotRange
from ..array_attention import AttentionParams
from ..rotation import ROTATE, THREE, Rotation
from .batch_tables import DeviceTables, TableSource
from .layer_kernels import AttentionShape, KernelDevice, Launch, LayerKernels, TileKernel, build_layer
from .source import (
    APPEND,
    GATHER,
    LOG2_E,
    THREADS,
    Geometry,
    Kernel,
    Language,
    TileGeometry,
)
from .tables import LayerKind, make_block_table
from .trimming import squeeze, trim

Partials = tuple[mx.array, mx.array]
"""Softmaxes over parts of the tokens: (n, num_heads, dim) sums of values and (n, num_heads, 2) peak, mass."""


class LayerPools(NamedTuple):
    """One layer's pools, and the array that orders their readers and writers."""

    keys: Pool
    values: Pool
    write_fence: mx.array  # zeros, (MIN_KERNEL_ELEMENTS,), from the kernel that wrote to the pools last

    @classmethod
    def of(cls, pools: ArrayPools, layer: int) -> "LayerPools":
        """Return the pools of `layer` as they are now."""
        return cls(pools.keys[layer], pools.values[layer], pools.write_fences[layer])


class PagedKernels:
    """The kernels of one backend; each compiled kernel is kept."""

    def __init__(self, language: Language, has_wgmma: bool = False, has_tiles: bool = True) -> None:
        """Declare nothing yet.

        has_wgmma: whether the device has Hopper's matrix units. has_tiles: whether tiles are used.
        """
        self._language = language
        self._device = KernelDevice(language, has_wgmma, has_tiles)
        self._launcher = cache(self._build)
        self._layer_kernels = cache(partial(build_layer, self._launcher, self._device))
        self._no_sinks = mx.zeros((MIN_KERNEL_ELEMENTS,))
        self._no_partials = mx.zeros((MIN_KERNEL_ELEMENTS,)), mx.zeros((MIN_KERNEL_ELEMENTS,))

    @property
    def name(self) -> str:
        """The backend's name, for people to read."""
        name = {"metal": "Metal kernels", "cuda": "CUDA kernels", "cpp": "C++ kernels"}[self._language]
        return name if self._device.has_tiles else f"{name} without tiles"

    def decode(
        self,
        queries: mx.array,
        new: tuple[mx.array, mx.array],
        pools: LayerPools,
        batch: TableSource,
        params: AttentionParams,
    ) -> tuple[mx.array, mx.array]:
        """Store each row's newest key and value in the pools, in place, and attend to all of its tokens.

        queries: (rows, num_heads, 1, dim). new: keys and values, (rows, kv_heads, 1, dim).
        Returns (rows, num_heads, 1, dim) and the next write fence.
        Raises NotImplementedError for a layer that the kernels cannot serve.
        """
        shape = self._shape(queries, pools, params)
        layer = self._layer_kernels(shape, params.window)
        num_heads, num_kv_heads = queries.shape[1], pools.keys.shape[0]
        num_groups = num_kv_heads * shape.geometry.tiles
        tile_kernel = layer.tiles.get(False)
        tile_queries = tile_kernel.queries if tile_kernel else 0
        tables = batch.get(LayerKind(num_kv_heads, num_groups, tile_queries, params.window))
        dim = shape.geometry.dim
        rows = pools.keys.rows, pools.values.rows
        splits = layer.split(
            inputs=[queries, *new, *rows, tables.block_table, tables.splits, pools.write_fence],
            grid=(THREADS * tables.num_splits, num_groups, 1),
            output_shapes=[(tables.num_splits, num_heads, dim), (tables.num_splits, num_heads, 2)],
        )
        tiles = self._attend_tiles(queries, pools, tables, tile_kernel)
        return self._combine(queries, (*splits, *tiles), tables, layer, params)

    def attends_slices(self, queries: mx.array, pools: LayerPools, params: AttentionParams) -> bool:
        """Whether `attend_slice` serves prompts' slices in such a layer, and is the device's best choice.

        On Metal MLX's own attention is: it takes every length as it comes, and knows each chip. On CUDA MLX
        makes a plan for each new pair of lengths, which takes 60 to 70 ms.
        """
        if self._language == "metal" or pools.keys.shape != pools.values.shape or not self._device.has_tiles:
            return False
        shape = self._shape(queries, pools, params)
        return TileGeometry(shape.geometry, self._language, is_slice=True).is_supported

    def attend_slice(
        self, queries: mx.array, pools: LayerPools, batch: TableSource, params: AttentionParams
    ) -> tuple[mx.array, mx.array]:
        """Attend a prompt's slice, whose keys and values are stored, to all of its sequence's tokens.

        queries: (1, num_heads, length, dim). batch: tables of the slice.
        Returns (1, num_heads, length, dim) and the next write fence.
        """
        shape = self._shape(queries, pools, params)
        layer = self._layer_kernels(shape, params.window)
        tile_kernel = layer.tiles[True]
        tables = batch.get(LayerKind(pools.keys.shape[0], 0, tile_kernel.queries, params.window))
        tiles = self._attend_tiles(queries, pools, tables, tile_kernel)
        return self._combine(queries, (*self._no_partials, *tiles), tables, layer, params)

    def _shape(self, queries: mx.array, pools: LayerPools, params: AttentionParams) -> AttentionShape:
        """Return the layer's shape. Raises NotImplementedError for one that the kernels cannot serve."""
        num_heads, num_kv_heads = queries.shape[1], pools.keys.shape[0]
        if pools.keys.shape != pools.values.shape or num_heads % num_kv_heads:
            raise NotImplementedError("keys and values of different sizes, or an uneven number of heads")
        group = num_heads // num_kv_heads
        geometry = Geometry(queries.shape[3], group, queries.dtype.size, pools.keys.packing)
        return AttentionShape(geometry, queries.dtype, params.scale, params.sinks is not None)

    def _attend_tiles(
        self,
        queries: mx.array,
        pools: LayerPools,
        tables: DeviceTables,
        kernel: TileKernel | None,
    ) -> Partials:
        """Return the partials of all tiles."""
        if not tables.num_tiles:
            return self._no_partials
        assert kernel is not None
        _, num_heads, _, dim = queries.shape
        num_partials = tables.num_tiles * kernel.queries
        rows = pools.keys.rows, pools.values.rows
        outs, stats = kernel.launch(
            inputs=[queries, *rows, tables.block_table, tables.tiles, pools.write_fence],
            grid=(kernel.threads * tables.num_tiles, pools.keys.shape[0], 1),
            output_shapes=[(num_partials, num_heads, dim), (num_partials, num_heads, 2)],
        )
        return outs, stats

    def _combine(
        self,
        queries: mx.array,
        partials: tuple[mx.array, ...],
        tables: DeviceTables,
        layer: LayerKernels,
        params: AttentionParams,
    ) -> tuple[mx.array, mx.array]:
        """Sum the partials of splits and tiles; return what `decode` and `attend_slice` return."""
        sinks = self._no_sinks if params.sinks is None else params.sinks.astype(mx.float32)
        num_rows, num_heads, length, _ = queries.shape
        result, next_fence = layer.combine(
            inputs=[queries, *partials, tables.query_partials, sinks],
            grid=(THREADS * num_rows * length, num_heads, 1),
            output_shapes=[queries.shape, (MIN_KERNEL_ELEMENTS,)],
        )
        return result, next_fence

    def rotate(self, rotation: Rotation, three: THREE, positions: mx.array) -> THREE:
        """Return queries, keys and values as the model attends to them; see Rotation.apply."""
        return rotation.apply(self._launcher(ROTATE, 0.0), three, positions)

    def append(self, new: tuple[mx.array, mx.array], pools: LayerPools, slots: mx.array) -> mx.array:
        """Store a slice's keys and values in the pools, in place; return the next write fence.

        new: (1, kv_heads, length, dim). slots: of each token of the slice, int32, length or more.
        """
        _, num_kv_heads, length, _ = new[0].shape
        next_fence: mx.array = self._launcher(APPEND, 0.0)(
            inputs=[*new, pools.keys.rows, pools.values.rows, slots, pools.write_fence],
            template=_head_template(pools.keys, new[0].dtype),
            grid=(THREADS * length, num_kv_heads, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(MIN_KERNEL_ELEMENTS,)],
            output_dtypes=[mx.float32],
        )[0]
        return next_fence

    def read(self, pools: LayerPools, slot_ranges: tuple[SlotRange, ...]) -> tuple[mx.array, mx.array]:
        """Return a sequence's keys and values, (kv_heads, length, dim).

        Both are views where there is one slot range and KV is not quantised, else copies. An operation that
        reads views must itself depend on the write fence, see `fenced`.
        slot_ranges: each but the first begins with a block.
        """
        if len(slot_ranges) == 1 and pools.keys.packing is None:
            (first, end), *_ = slot_ranges
            return pools.keys.rows[:, first:end], pools.values.rows[:, first:end]
        return self.gather(pools, slot_ranges)

    def gather(self, pools: LayerPools, slot_ranges: tuple[SlotRange, ...]) -> tuple[mx.array, mx.array]:
        """Copy, and unpack, a sequence's keys and values; see `read`."""
        num_kv_heads, _, dim = pools.keys.shape
        length, skipped = sum(end - first for first, end in slot_ranges), slot_ranges[0][0] % BLOCK_SIZE
        extent = mx.array([length, skipped] + [0] * (MIN_KERNEL_ELEMENTS - 2))
        blocks = mx.array(make_block_table([slot_ranges]))
        keys, values = self._launcher(GATHER, 0.0)(
            inputs=[pools.keys.rows, pools.values.rows, blocks, extent, pools.write_fence],
            template=[*_head_template(pools.keys, pools.keys.dtype), ("BLOCK", BLOCK_SIZE)],
            grid=(THREADS * length, num_kv_heads, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(num_kv_heads, length, dim)] * 2,
            output_dtypes=[pools.keys.dtype] * 2,
        )
        return keys, values

    def _build(self, kernel: Kernel, scale: float, workspace_bytes: int = 0) -> Launch:
        """Declare a kernel to MLX, with the scale of its scores as a constant.

        workspace_bytes: shared memory that CUDA wants to know of at the launch.
        """
        make: Any = mx.fast.metal_kernel
        if self._language == "cuda":
            make = partial(mx.fast.cuda_kernel, shared_memory=workspace_bytes)
        source = squeeze(f"const float SCALE = {scale * LOG2_E!r};\n" + kernel.body(self._language))
        text = trim(kernel.header(self._language), f"__global__ {source}")  # as MLX declares it on CUDA
        launch: Launch = make(
            # MLX keeps what it has compiled by name, for CUDA on disk as well: a new text needs a new name.
            name=f"paged_{kernel.name}_{hashlib.sha256((text + source).encode()).hexdigest()[:16]}",
            input_names=list(kernel.inputs),
            output_names=list(kernel.outputs),
            header=text,
            source=source,
            ensure_row_contiguous=not kernel.takes_gaps,
        )
        return launch


def _head_template(pool: Pool, dtype: mx.Dtype) -> list[tuple[str, Any]]:
    """Return the compile-time constants that describe a pool's rows to a kernel."""
    constants = Geometry(pool.shape[2], 1, dtype.size, pool.packing).constants
    return [("T", dtype), *((name, constants[name]) for name in ("DIM", "BITS", "UNIT", "VECTOR"))]


def fenced(array: mx.array, write_fence: mx.array) -> mx.array:
    """Make `array` depend on `write_fence` (zeros).

    Nothing computed from the result runs before the kernel that returned `write_fence`.
    """
    return array + write_fence[:1].astype(array.dtype)  # write_fence[0] would be a kernel of its own


def find_kernels(has_tiles: bool = True) -> PagedKernels | None:
    """Return the kernels of MLX's default device, with or without tiles, None where that is the CPU."""
    if mx.default_device() != mx.Device(mx.gpu):
        return None
    if mx.metal.is_available():
        return PagedKernels("metal", has_tiles=has_tiles)
    has_wgmma = mx.device_info().get("compute_capability_major") == 9
    return PagedKernels("cuda", has_wgmma, has_tiles)
