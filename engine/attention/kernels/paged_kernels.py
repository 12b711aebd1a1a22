"""Paged attention on Metal and CUDA: launches the kernels, and reads what rows share with MLX's matmuls.

The kernels write new keys and values into the pools in place. MLX would copy a whole pool instead, whenever
an earlier step that reads it is still on the device (a buffer in use is not donated), and it does not know of
these writes. So each layer has a chain of small `done` arrays: every kernel that reads or writes the layer's
pools takes the last one, and every write makes the next.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import mlx.core as mx

from ....cache.blocks import BLOCK_SIZE
from ....cache.kv import Pool
from ...step import SlotRange
from ..array_attention import AttentionParams
from .batch_tables import DeviceTables, TableSource
from .source import APPEND, COMBINE, GATHER, LOG2_E, SOFTMAX, SPLIT, THREADS, Geometry, Kernel, header
from .tables import block_table

SHARED_PEAK_MARGIN = 6
"""Keeps the sums of half-precision values, weighted with at most 2^-6, far from overflow."""

CENTRE_KEYS = 32
"""Keys whose mean is taken off all keys of a shared read."""

DTYPES = (mx.float16, mx.bfloat16, mx.float32)

Launch = Callable[..., list[mx.array]]

Pools = tuple[Pool, Pool]
"""One layer's keys and values."""


@dataclass(frozen=True, slots=True)
class LayerKernels:
    """The two passes of decode attention, made for layers of one kind."""

    split: Launch
    combine: Launch


class PagedKernels:
    """The kernels of one backend; keeps what it has compiled."""

    def __init__(self, language: Literal["metal", "cuda"], centres_keys: bool = False) -> None:
        """centres_keys: shared reads take what the keys have in common off them, which costs time."""
        self._language = language
        self._centres_keys = centres_keys
        self._launch = cache(self._build)
        self._prepare = cache(self._prepare_layer)
        self._nothing = mx.zeros((8,))
        # They stand for parts of shared reads where there are none.
        self._none_shared = {dtype: mx.zeros((1, 1, 1, 8), dtype) for dtype in DTYPES}

    @property
    def name(self) -> str:
        """For people to read."""
        return {"metal": "Metal kernels", "cuda": "CUDA kernels"}[self._language]

    def decode(
        self,
        queries: mx.array,
        new: tuple[mx.array, mx.array],
        pools: Pools,
        batch: TableSource,
        options: "Options",
    ) -> tuple[mx.array, mx.array]:
        """Store each row's newest key and value and attend to all of its tokens.

        queries: (rows, num_heads, 1, dim). new: keys and values, (rows, kv_heads, 1, dim). pools: written
        in place. Returns (rows, num_heads, 1, dim) and a `done`.
        Raises NotImplementedError for a layer that the kernels cannot serve.
        """
        num_rows, num_heads, _, dim = queries.shape
        num_kv_heads, keys, values = pools[0].shape[0], pools[0], pools[1]
        if keys.shape != values.shape or num_heads % num_kv_heads:
            raise NotImplementedError("keys and values of different sizes, or an uneven number of heads")
        geometry = Geometry(dim, num_heads // num_kv_heads, queries.dtype.size, keys.packing)
        sinks = options.params.sinks
        layer = self._prepare(geometry, queries.dtype, options.params.scale, sinks is not None)
        num_groups = num_kv_heads * geometry.tiles
        tables = batch.get((num_groups, options.params.window))
        outs, stats = layer.split(
            inputs=[queries, *new, keys.rows, values.rows, tables.table, tables.items, options.after],
            grid=(THREADS * tables.num_splits, num_groups, 1),
            output_shapes=[(tables.num_splits, num_heads, dim), (tables.num_splits, num_heads, 2)],
        )
        extra = self._shared(queries, pools, tables, options)
        result, done = layer.combine(
            inputs=[
                outs,
                stats,
                *extra,
                tables.ranges,
                self._nothing if sinks is None else sinks.astype(mx.float32),
            ],
            grid=(THREADS * num_rows, num_heads, 1),
            output_shapes=[queries.shape, (8,)],
        )
        return result, done

    def _prepare_layer(
        self, geometry: Geometry, dtype: mx.Dtype, scale: float, has_sinks: bool
    ) -> "LayerKernels":
        """The two passes for layers of one kind."""
        dim, group = geometry.dim, geometry.group
        if dtype not in DTYPES or not geometry.is_supported:
            raise NotImplementedError(f"{group} heads of {dim} to a KV head, {dtype}")
        split = partial(
            self._launch(SPLIT, scale),
            template=[("T", dtype), *geometry.constants.items()],
            threadgroup=(THREADS, 1, 1),
            output_dtypes=[mx.float32, mx.float32],
        )
        combine = partial(
            self._launch(COMBINE, 0.0),
            template=[("T", dtype), ("HAS_SINKS", has_sinks), ("DIM", dim), ("GROUP", group)],
            threadgroup=(THREADS, 1, 1),
            output_dtypes=[dtype, mx.float32],
        )
        return LayerKernels(split, combine)

    def _shared(
        self, queries: mx.array, pools: Pools, tables: DeviceTables, options: "Options"
    ) -> tuple[mx.array, mx.array]:
        """Parts (kv_heads, m, group, dim) and their (peak, mass), for the rows of all shared reads."""
        if not tables.shared:
            return self._none_shared[queries.dtype], self._none_shared[mx.float32]
        queries = fenced(queries, options.after)
        parts = []
        for rows, run in tables.shared:
            mine = queries if rows is None else queries[rows]
            keys, values = self.read(pools, (run,), options.after)
            parts.append(self._read_shared(mine, keys, values, options))
        if len(parts) == 1:
            return parts[0]
        return mx.concatenate([out for out, _ in parts], axis=1), mx.concatenate(
            [stats for _, stats in parts], axis=1
        )

    def _read_shared(
        self, queries: mx.array, keys: mx.array, values: mx.array, options: "Options"
    ) -> tuple[mx.array, mx.array]:
        """Partial softmax of several rows over slots that all of them read.

        queries: (rows, num_heads, 1, dim); they have waited for the pools. keys, values: whole blocks of
        pools, (kv_heads, length, dim).
        Returns (kv_heads, rows, group, dim) and the same with 2: base-2 peak and mass.
        """
        scale, (num_kv_heads, _, dim) = options.params.scale, keys.shape
        num_rows, num_heads = queries.shape[:2]
        group = num_heads // num_kv_heads
        q = queries.reshape(num_rows, num_kv_heads, group, dim).swapaxes(0, 1)
        shrink = 2.0 ** round(math.log2(scale))  # exact, and keeps half precision from overflow
        q = q.reshape(num_kv_heads, -1, dim) * shrink
        levels = None
        if self._centres_keys:
            keys, levels = _centred(q, keys, options.after)
        scores = q @ keys.swapaxes(1, 2)
        weights, stats = self._launch(SOFTMAX, scale / shrink)(
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
        if levels is not None:
            peaks = stats[..., :1] + levels * (scale / shrink * LOG2_E)
            stats = mx.concatenate([peaks, stats[..., 1:]], axis=-1)
        shape = (num_kv_heads, num_rows, group)
        return (weights @ values).reshape(*shape, dim), stats.reshape(*shape, 2)

    def append(
        self,
        new: tuple[mx.array, mx.array],
        pools: Pools,
        slots: mx.array,
        after: mx.array,
    ) -> mx.array:
        """Store a slice's keys and values, (1, kv_heads, length, dim), in place; returns a `done`."""
        _, num_kv_heads, length, _ = new[0].shape
        done: mx.array = self._launch(APPEND, 0.0)(
            inputs=[*new, pools[0].rows, pools[1].rows, slots, after],
            template=_head_template(pools[0], new[0].dtype),
            grid=(THREADS * length, num_kv_heads, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(8,)],
            output_dtypes=[mx.float32],
        )[0]
        return done

    def read(
        self, pools: Pools, slot_ranges: tuple[SlotRange, ...], after: mx.array
    ) -> tuple[mx.array, mx.array]:
        """A sequence's keys and values, (kv_heads, length, dim): a view where they lie so, else a copy.

        runs: all but the first begin with a block.
        """
        if len(slot_ranges) == 1 and pools[0].packing is None:
            (first, end), *_ = slot_ranges
            return pools[0].rows[:, first:end], pools[1].rows[:, first:end]
        return self.gather(pools, slot_ranges, after)

    def gather(
        self, pools: Pools, slot_ranges: tuple[SlotRange, ...], after: mx.array
    ) -> tuple[mx.array, mx.array]:
        """Copy, and unpack, a sequence's keys and values; see `read`."""
        num_kv_heads, _, dim = pools[0].shape
        length, skipped = sum(end - first for first, end in slot_ranges), slot_ranges[0][0] % BLOCK_SIZE
        extent = mx.array([length, skipped] + [0] * 6)
        keys, values = self._launch(GATHER, 0.0)(
            inputs=[pools[0].rows, pools[1].rows, mx.array(block_table([slot_ranges])), extent, after],
            template=[*_head_template(pools[0], pools[0].dtype), ("BLOCK", BLOCK_SIZE)],
            grid=(THREADS * length, num_kv_heads, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(num_kv_heads, length, dim)] * 2,
            output_dtypes=[pools[0].dtype] * 2,
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
        )
        return launch


def _head_template(pool: Pool, dtype: mx.Dtype) -> list[tuple[str, Any]]:
    """What a kernel must know of a pool's rows."""
    constants = Geometry(pool.shape[2], 1, dtype.size, pool.packing).constants
    return [("T", dtype), *((name, constants[name]) for name in ("DIM", "BITS", "UNIT", "VECTOR"))]


def _centred(queries: mx.array, keys: mx.array, after: mx.array) -> tuple[mx.array, mx.array]:
    """Keys less a mean of some of them, and the queries' scores with that mean: (kv_heads, m, 1), float32.

    Keys may have so large a part in common (by Qwen2's biases) that scores in half precision, rounded before
    the softmax, would keep nothing of their differences.
    """
    some = fenced(keys[:, -CENTRE_KEYS:], after)  # and with the mean all keys that it is taken off
    mean = some.astype(mx.float32).mean(axis=1, keepdims=True).astype(keys.dtype)
    levels = queries.astype(mx.float32) @ mean.astype(mx.float32).swapaxes(1, 2)
    return keys - mean, levels


def fenced(array: mx.array, done: mx.array) -> mx.array:
    """`array`, and what is computed from it, not before `done`, which is zeros."""
    return array + done[:1].astype(array.dtype)  # done[0] would be a kernel of its own


@dataclass(frozen=True, slots=True)
class Options:
    """Of one layer: how it weighs its keys, and what to wait for."""

    params: AttentionParams
    after: mx.array  # the layer's last `done`


def find_kernels(centres_keys: bool = False) -> PagedKernels | None:
    """The kernels of MLX's default device, None where it has none; see PagedKernels."""
    if mx.default_device() != mx.Device(mx.gpu):
        return None
    return PagedKernels("metal" if mx.metal.is_available() else "cuda", centres_keys)
