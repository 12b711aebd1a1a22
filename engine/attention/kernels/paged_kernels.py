"""Paged attention on Metal and CUDA: launches the kernels, and reads shared tiles with MLX's matmuls.

The kernels write new keys and values into the pools in place. MLX would copy a whole pool instead, whenever
an earlier step that reads it is still on the device (a buffer in use is not donated), and it does not know of
these writes. So each layer has a chain of small arrays, its write fences: every kernel that reads or writes
the layer's pools takes the last fence, and every write returns the next one.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import mlx.core as mx

from ....cache.blocks import BLOCK_SIZE
from ....cache.kv import MIN_KERNEL_ELEMENTS, ArrayPools, Pool
from ...step import SlotRange
from ..array_attention import AttentionParams
from ..rotation import ROTATE, THREE, Rotation
from .batch_tables import DeviceTables, TableSource
from .source import APPEND, COMBINE, GATHER, LOG2_E, SOFTMAX, SPLIT, THREADS, Geometry, Kernel, header
from .tables import LayerKind, make_block_table

SHARED_PEAK_MARGIN = 6
"""Added to the peak of a shared tile's scores: weights of at most 2^-6 keep half precision from overflow."""

CENTRE_KEYS = 32
"""Last keys of a shared tile; their mean is subtracted from all of its keys."""

DTYPES = (mx.float16, mx.bfloat16, mx.float32)

Launch = Callable[..., list[mx.array]]
"""Queues one kernel: takes inputs, grid and so on as MLX's kernels do; returns the outputs, lazy."""


class LayerPools(NamedTuple):
    """One layer's pools, and the array that orders their readers and writers."""

    keys: Pool
    values: Pool
    write_fence: mx.array  # zeros, (MIN_KERNEL_ELEMENTS,), from the kernel that wrote to the pools last

    @classmethod
    def of(cls, pools: ArrayPools, layer: int) -> "LayerPools":
        """Return the pools of `layer` as they are now."""
        return cls(pools.keys[layer], pools.values[layer], pools.write_fences[layer])


@dataclass(frozen=True, slots=True)
class LayerKernels:
    """The two passes of decode attention, compiled for layers of one geometry, type and scale."""

    split: Launch
    combine: Launch


class PagedKernels:
    """The kernels of one backend; each compiled kernel is kept."""

    def __init__(self, language: Literal["metal", "cuda"], centres_keys: bool = False) -> None:
        """centres_keys: subtract from a shared tile's keys their mean, which costs time; see `_centred`."""
        self._language = language
        self._centres_keys = centres_keys
        self._launcher = cache(self._build)
        self._layer_kernels = cache(self._build_layer)
        self._no_sinks = mx.zeros((MIN_KERNEL_ELEMENTS,))
        self._no_partials = {dtype: mx.zeros((1, 1, 1, MIN_KERNEL_ELEMENTS), dtype) for dtype in DTYPES}

    @property
    def name(self) -> str:
        """The backend's name, for people to read."""
        return {"metal": "Metal kernels", "cuda": "CUDA kernels"}[self._language]

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
        num_rows, num_heads, _, dim = queries.shape
        num_kv_heads = pools.keys.shape[0]
        if pools.keys.shape != pools.values.shape or num_heads % num_kv_heads:
            raise NotImplementedError("keys and values of different sizes, or an uneven number of heads")
        geometry = Geometry(dim, num_heads // num_kv_heads, queries.dtype.size, pools.keys.packing)
        sinks = params.sinks
        layer = self._layer_kernels(geometry, queries.dtype, params.scale, sinks is not None)
        num_groups = num_kv_heads * geometry.tiles
        tables = batch.get(LayerKind(num_groups, params.window))
        rows = pools.keys.rows, pools.values.rows
        split_outs, split_stats = layer.split(
            inputs=[queries, *new, *rows, tables.block_table, tables.splits, pools.write_fence],
            grid=(THREADS * tables.num_splits, num_groups, 1),
            output_shapes=[(tables.num_splits, num_heads, dim), (tables.num_splits, num_heads, 2)],
        )
        shared_outs, shared_stats = self._attend_shared(queries, pools, tables, params.scale)
        result, next_fence = layer.combine(
            inputs=[
                split_outs,
                split_stats,
                shared_outs,
                shared_stats,
                tables.row_partials,
                self._no_sinks if sinks is None else sinks.astype(mx.float32),
            ],
            grid=(THREADS * num_rows, num_heads, 1),
            output_shapes=[queries.shape, (MIN_KERNEL_ELEMENTS,)],
        )
        return result, next_fence

    def _build_layer(
        self, geometry: Geometry, dtype: mx.Dtype, scale: float, has_sinks: bool
    ) -> LayerKernels:
        dim, group = geometry.dim, geometry.group
        if dtype not in DTYPES or not geometry.is_supported:
            raise NotImplementedError(f"{group} heads of {dim} to a KV head, {dtype}")
        split = partial(
            self._launcher(SPLIT, scale),
            template=[("T", dtype), *geometry.constants.items()],
            threadgroup=(THREADS, 1, 1),
            output_dtypes=[mx.float32, mx.float32],
        )
        combine = partial(
            self._launcher(COMBINE, 0.0),
            template=[("T", dtype), ("HAS_SINKS", has_sinks), ("DIM", dim), ("GROUP", group)],
            threadgroup=(THREADS, 1, 1),
            output_dtypes=[dtype, mx.float32],
        )
        return LayerKernels(split, combine)

    def _attend_shared(
        self, queries: mx.array, pools: LayerPools, tables: DeviceTables, scale: float
    ) -> tuple[mx.array, mx.array]:
        """Return the partials of all shared tiles' rows, tile after tile; m of them in all.

        outs (kv_heads, m, group, dim): sums of values. stats (kv_heads, m, group, 2): peak in base 2, mass.
        """
        if not tables.shared:
            return self._no_partials[queries.dtype], self._no_partials[mx.float32]
        queries = fenced(queries, pools.write_fence)
        partials = []
        for rows, slot_range in tables.shared:
            tile_queries = queries if rows is None else queries[rows]
            keys, values = self.read(pools, (slot_range,))
            partials.append(self._attend_tile(tile_queries, keys, values, scale, pools.write_fence))
        if len(partials) == 1:
            return partials[0]
        outs, stats = ([partial[i] for partial in partials] for i in range(2))
        return mx.concatenate(outs, axis=1), mx.concatenate(stats, axis=1)

    def _attend_tile(
        self, queries: mx.array, keys: mx.array, values: mx.array, scale: float, write_fence: mx.array
    ) -> tuple[mx.array, mx.array]:
        """Return the partials of several rows over a shared tile.

        queries: (rows, num_heads, 1, dim), which depend on `write_fence`.
        keys, values: whole blocks of the pools, (kv_heads, length, dim).
        Returns outs (kv_heads, rows, group, dim) and stats (kv_heads, rows, group, 2), see `_attend_shared`.
        """
        num_kv_heads, _, dim = keys.shape
        num_rows, num_heads = queries.shape[:2]
        group = num_heads // num_kv_heads
        q = queries.reshape(num_rows, num_kv_heads, group, dim).swapaxes(0, 1)
        shrink = 2.0 ** round(math.log2(scale))  # exact, and keeps half precision from overflow
        q = q.reshape(num_kv_heads, -1, dim) * shrink
        mean_scores = None
        if self._centres_keys:
            keys, mean_scores = _centred(q, keys, write_fence)
        scores = q @ keys.swapaxes(1, 2)
        weights, stats = self._launcher(SOFTMAX, scale / shrink)(
            inputs=[scores],
            template=[
                ("T", scores.dtype),
                ("VECTOR", 16 // scores.dtype.size),
                ("MARGIN", SHARED_PEAK_MARGIN),
            ],
            grid=(THREADS * scores.shape[1], num_kv_heads, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[scores.shape, (*scores.shape[:2], 2)],
            output_dtypes=[scores.dtype, mx.float32],
        )
        if mean_scores is not None:
            peaks = stats[..., :1] + mean_scores * (scale / shrink * LOG2_E)
            stats = mx.concatenate([peaks, stats[..., 1:]], axis=-1)
        shape = (num_kv_heads, num_rows, group)
        return (weights @ values).reshape(*shape, dim), stats.reshape(*shape, 2)

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

    def _build(self, kernel: Kernel, scale: float) -> Launch:
        """Declare a kernel to MLX, with the scale of its scores as a constant."""
        make: Any = mx.fast.metal_kernel if self._language == "metal" else mx.fast.cuda_kernel
        text = header(self._language)
        source = f"const float SCALE = {scale * LOG2_E!r};\n" + kernel.body(self._language)
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


def _centred(queries: mx.array, keys: mx.array, write_fence: mx.array) -> tuple[mx.array, mx.array]:
    """Subtract from keys the mean of the last CENTRE_KEYS; return also the queries' scores with that mean.

    The scores are float32, (kv_heads, m, 1). Keys may have so large a part in common (by Qwen2's biases) that
    scores in half precision, rounded before the softmax, would keep nothing of the keys' differences.
    """
    last = fenced(keys[:, -CENTRE_KEYS:], write_fence)  # `keys - mean` depends on the fence through the mean
    mean = last.astype(mx.float32).mean(axis=1, keepdims=True).astype(keys.dtype)
    mean_scores = queries.astype(mx.float32) @ mean.astype(mx.float32).swapaxes(1, 2)
    return keys - mean, mean_scores


def fenced(array: mx.array, write_fence: mx.array) -> mx.array:
    """Make `array` depend on `write_fence` (zeros).

    Nothing computed from the result runs before the kernel that returned `write_fence`.
    """
    return array + write_fence[:1].astype(array.dtype)  # write_fence[0] would be a kernel of its own


def find_kernels(centres_keys: bool = False) -> PagedKernels | None:
    """Return the kernels of MLX's default device, None where that is the CPU; see PagedKernels."""
    if mx.default_device() != mx.Device(mx.gpu):
        return None
    return PagedKernels("metal" if mx.metal.is_available() else "cuda", centres_keys)
