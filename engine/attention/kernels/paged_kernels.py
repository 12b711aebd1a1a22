"""Paged attention on Metal and CUDA: launches the kernels.

The kernels write new keys and values into the pools in place. MLX would copy a whole pool instead, whenever
an earlier step that reads it is still on the device (a buffer in use is not donated), and it does not know of
these writes. So each layer has a chain of small arrays, its write fences: every kernel that reads or writes
the layer's pools takes the last fence, and every write returns the next one.
"""

import hashlib
from functools import cache, partial
from typing import Any

import mlx.core as mx

from ....cache.blocks import BLOCK_SIZE
from ....cache.kv import MIN_KERNEL_ELEMENTS, LayerShape
from ...compiling.kept_kernels import KeptKernel, open_store
from ...compiling.kernel_text import Declaration
from ...step import SlotRange
from ..array_attention import AttentionParams
from ..rotation import ROTATE, THREE, Rotation
from .batch_tables import DeviceTables, TableSource
from .geometry import Geometry, TileGeometry
from .layer_kernels import (
    AttentionShape,
    KernelDevice,
    Launch,
    LayerKernels,
    PartialKernel,
    Partials,
    are_served,
    build_layer,
    find_tiling,
)
from .layer_pools import LayerPools, pool_geometry, row_template, stored_geometry
from .source import (
    APPEND,
    GATHER,
    LOG2_E,
    THREADS,
    Kernel,
    Language,
)
from .tables import LayerKind, make_block_table
from .trimming import squeeze, trim


class PagedKernels:
    """The kernels of one backend; each compiled kernel is kept."""

    def __init__(self, language: Language, has_wgmma: bool = False, has_tiles: bool = True) -> None:
        """Declare nothing yet.

        has_wgmma: whether the device has Hopper's matrix units. has_tiles: whether tiles are used.
        """
        self._language = language
        self.device = KernelDevice(language, has_wgmma, has_tiles)
        self._left_out: set[tuple[LayerShape, int]] = set()
        self.moves_states = True  # False where the kernels of recurrent states fail on this device
        self.launcher = cache(self._build)
        self._layer_kernels = cache(partial(build_layer, self.launcher, self.device))
        self._no_sinks = mx.zeros((MIN_KERNEL_ELEMENTS,))
        self._no_partials = mx.zeros((MIN_KERNEL_ELEMENTS,)), mx.zeros((MIN_KERNEL_ELEMENTS,))

    @property
    def name(self) -> str:
        """The backend's name, for people to read."""
        name = {"metal": "Metal kernels", "cuda": "CUDA kernels", "cpp": "C++ kernels"}[self._language]
        return name if self.device.has_tiles else f"{name} without tiles"

    def serves(self, shape: LayerShape, num_heads: int) -> bool:
        """Whether these kernels compute the attention of layers with `num_heads` query heads."""
        if num_heads % shape.num_kv_heads or (shape, num_heads) in self._left_out:
            return False
        geometry = stored_geometry(shape, num_heads)
        return are_served(self.device, AttentionShape(geometry, shape.dtype, 1.0, False))

    def slice_kind(self, shape: LayerShape, num_heads: int, window: int | None) -> LayerKind | None:
        """Return the kind of layers whose tables `attend_slice` reads, None where it does not serve slices.

        The layers are such that these kernels serve.
        """
        geometry = stored_geometry(shape, num_heads)
        if not self._are_slices_tiles(geometry):
            return None
        tiling = find_tiling(geometry, self.device, is_slice=True)
        return LayerKind(shape.num_kv_heads * tiling.head_tiles, 0, tiling.queries, window)

    def leave_out(self, shape: LayerShape, num_heads: int) -> None:
        """Serve no such layers any more: the kernels fail on this device."""
        self._left_out.add((shape, num_heads))

    def decode(
        self,
        queries: mx.array,
        new: tuple[mx.array, mx.array],
        pools: LayerPools,
        batch: TableSource,
        params: AttentionParams,
    ) -> tuple[mx.array, mx.array]:
        """Store each row's newest key and value in the pools, in place, and attend to all of its tokens.

        queries: (rows, num_heads, 1, key_dim). new: keys and values, each (rows, kv_heads, 1, its dim).
        Returns (rows, num_heads, 1, value_dim) and the next write fence.
        Raises NotImplementedError for a layer that the kernels cannot serve.
        """
        layer = self._layer_kernels(self._shape(queries, pools, params), params.window)
        num_kv_heads = pools.keys.shape[0]
        tables = batch.get(layer.kind(num_kv_heads, params.window, is_slice=False))
        stored = new[:1] if layer.splits_are_tiles else new
        inputs = [queries, *stored, *pools.rows, tables.block_table, tables.splits, pools.write_fence]
        splits = layer.splits.attend(inputs, tables.num_splits, num_kv_heads)
        tiles = self._attend_tiles(queries, pools, tables, layer.tiles.get(False))
        return self._combine(queries, (*splits, *tiles), tables, layer, params)

    def attends_slices(self, queries: mx.array, pools: LayerPools, params: AttentionParams) -> bool:
        """Whether `attend_slice` serves prompts' slices in such a layer, and is the device's best choice.

        On Metal MLX's own attention is: it takes every length as it comes, and knows each chip. On CUDA MLX
        makes a plan for each new pair of lengths, which takes 60 to 70 ms.
        """
        return self._are_slices_tiles(self._shape(queries, pools, params).geometry)

    def _are_slices_tiles(self, geometry: Geometry) -> bool:
        if self._language == "metal" or not self.device.has_tiles:
            return False
        return TileGeometry(geometry, self._language, is_slice=True).is_supported

    def attend_slice(
        self, queries: mx.array, pools: LayerPools, batch: TableSource, params: AttentionParams
    ) -> tuple[mx.array, mx.array]:
        """Attend a prompt's slice, whose keys and values are stored, to all of its sequence's tokens.

        queries: (1, num_heads, length, key_dim). batch: tables of the slice.
        Returns (1, num_heads, length, value_dim) and the next write fence.
        """
        layer = self._layer_kernels(self._shape(queries, pools, params), params.window)
        tables = batch.get(layer.kind(pools.keys.shape[0], params.window, is_slice=True))
        tiles = self._attend_tiles(queries, pools, tables, layer.tiles[True])
        return self._combine(queries, (*self._no_partials, *tiles), tables, layer, params)

    def _shape(self, queries: mx.array, pools: LayerPools, params: AttentionParams) -> AttentionShape:
        """Return the layer's shape. Raises NotImplementedError for one that the kernels cannot serve."""
        num_heads, num_kv_heads = queries.shape[1], pools.keys.shape[0]
        if num_heads % num_kv_heads:
            raise NotImplementedError(f"{num_heads} heads for {num_kv_heads} KV heads")
        geometry = pool_geometry(pools, num_heads // num_kv_heads, queries.dtype)
        return AttentionShape(geometry, queries.dtype, params.scale, params.sinks is not None)

    def _attend_tiles(
        self, queries: mx.array, pools: LayerPools, tables: DeviceTables, kernel: PartialKernel | None
    ) -> Partials:
        """Return the partials of all tiles."""
        if not tables.num_tiles:
            return self._no_partials
        assert kernel is not None
        inputs = [queries, *pools.rows, tables.block_table, tables.tiles, pools.write_fence]
        return kernel.attend(inputs, tables.num_tiles, pools.keys.shape[0])

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
            output_shapes=[(*queries.shape[:3], layer.value_dim), (MIN_KERNEL_ELEMENTS,)],
        )
        return result, next_fence

    def rotate(self, rotation: Rotation, three: THREE, positions: mx.array) -> THREE:
        """Return queries, keys and values as the model attends to them; see Rotation.apply."""
        return rotation.apply(self.launcher(ROTATE, 0.0), three, positions)

    def append(self, new: tuple[mx.array, mx.array], pools: LayerPools, slots: mx.array) -> mx.array:
        """Store a slice's keys and values in the pools, in place; return the next write fence.

        new: (1, kv_heads, length, key_dim or value_dim). slots: of each token, int32, length or more.
        """
        _, num_kv_heads, length, _ = new[0].shape
        given = [new[0], new[0] if pools.values_in_keys else new[1]]  # MLX would copy a part of the keys
        next_fence: mx.array = self.launcher(APPEND, 0.0)(
            inputs=[*given, *pools.rows, slots, pools.write_fence],
            template=row_template(pools, new[0].dtype),
            grid=(THREADS * length, num_kv_heads, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(MIN_KERNEL_ELEMENTS,)],
            output_dtypes=[mx.float32],
        )[0]
        return next_fence

    def read(self, pools: LayerPools, slot_ranges: tuple[SlotRange, ...]) -> tuple[mx.array, mx.array]:
        """Return a sequence's keys and values, (kv_heads, length, key_dim or value_dim).

        Both are views where there is one slot range and KV is not quantised, else copies. An operation that
        reads views must itself depend on the write fence, see `fenced`.
        slot_ranges: each but the first begins with a block.
        """
        if len(slot_ranges) == 1 and pools.keys.packing is None:
            (first, end), *_ = slot_ranges
            return pools.keys[:, first:end], pools.values[:, first:end]
        return self.gather(pools, slot_ranges)

    def gather(self, pools: LayerPools, slot_ranges: tuple[SlotRange, ...]) -> tuple[mx.array, mx.array]:
        """Copy, and unpack, a sequence's keys and values; see `read`."""
        num_kv_heads, _, dim = pools.keys.shape
        value_dim = pools.values.shape[2]
        length, skipped = sum(end - first for first, end in slot_ranges), slot_ranges[0][0] % BLOCK_SIZE
        extent = mx.array([length, skipped] + [0] * (MIN_KERNEL_ELEMENTS - 2))
        blocks = mx.array(make_block_table([slot_ranges]))
        keys, values = self.launcher(GATHER, 0.0)(
            inputs=[*pools.rows, blocks, extent, pools.write_fence],
            template=[*row_template(pools, pools.keys.dtype), ("BLOCK", BLOCK_SIZE)],
            grid=(THREADS * length, num_kv_heads, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[
                (num_kv_heads, length, dim),
                (MIN_KERNEL_ELEMENTS,) if pools.values_in_keys else (num_kv_heads, length, value_dim),
            ],
            output_dtypes=[pools.keys.dtype] * 2,
        )
        return keys, keys[..., :value_dim] if pools.values_in_keys else values

    def _build(self, kernel: Kernel, scale: float, workspace_bytes: int = 0) -> Launch:
        """Declare a kernel to MLX, with the scale of its scores as a constant.

        workspace_bytes: shared memory that CUDA wants to know of at the launch.
        """
        source = squeeze(f"const float SCALE = {scale * LOG2_E!r};\n" + kernel.body(self._language))
        text = trim(kernel.header(self._language), f"__global__ {source}")  # as MLX declares it on CUDA
        # MLX keeps what it has compiled by name, for CUDA on disk as well: a new text needs a new name.
        name = f"paged_{kernel.name}_{hashlib.sha256((text + source).encode()).hexdigest()[:16]}"
        declaration = Declaration(name, kernel.inputs, kernel.outputs, text, source)
        return self._declare(declaration, not kernel.takes_gaps, workspace_bytes)

    def _declare(self, declaration: Declaration, copies_gaps: bool, workspace_bytes: int) -> Launch:
        """Declare a kernel to MLX. copies_gaps: whether MLX copies inputs that have gaps."""
        make: Any = mx.fast.metal_kernel
        if self._language == "cuda":
            make = partial(mx.fast.cuda_kernel, shared_memory=workspace_bytes)
        launch: Launch = make(
            name=declaration.name,
            input_names=list(declaration.input_names),
            output_names=list(declaration.output_names),
            header=declaration.header,
            source=declaration.source,
            ensure_row_contiguous=copies_gaps,
        )
        store = open_store() if self._language == "cuda" else None
        return launch if store is None else KeptKernel(declaration, launch, store)


def find_kernels(has_tiles: bool = True) -> PagedKernels | None:
    """Return the kernels of MLX's default device, with or without tiles, None where that is the CPU."""
    if mx.default_device() != mx.Device(mx.gpu):
        return None
    if mx.metal.is_available():
        return PagedKernels("metal", has_tiles=has_tiles)
    has_wgmma = mx.device_info().get("compute_capability_major") == 9
    return PagedKernels("cuda", has_wgmma, has_tiles)
