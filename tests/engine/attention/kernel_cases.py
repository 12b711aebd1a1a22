"""Random pools and batches for the kernels' text, and what must come of them, written out in NumPy."""

from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from pensieve.cache.kv import MIN_KERNEL_ELEMENTS
from pensieve.engine.attention.kernels.source import COMBINE, SOFTMAX, SPLIT, Geometry
from pensieve.engine.attention.kernels.tables import DecodeTables, LayerKind, make_tables
from pensieve.engine.attention.shared_prefixes import shared_prefixes
from pensieve.engine.step import SlotRange

from .compiled import from_bits, launch, to_bits

Floats = npt.NDArray[np.float32]

NUM_SLOTS = 32 * 160


def plain(query: Floats, keys: Floats, values: Floats, scale: float, sinks: Floats | None) -> Floats:
    """One row: query (heads, dim), keys and values (kv_heads, tokens, dim)."""
    group = len(query) // len(keys)
    scores = np.einsum("hd,htd->ht", query, keys.repeat(group, 0)).astype(np.float64) * scale
    shown = scores if sinks is None else np.concatenate([scores, sinks[:, None]], axis=1)
    weights = np.exp(scores - shown.max(1, keepdims=True))
    weights /= np.exp(shown - shown.max(1, keepdims=True)).sum(1, keepdims=True)
    out: Floats = np.einsum("ht,htd->hd", weights, values.repeat(group, 0)).astype(np.float32)
    return out


def scattered(rng: np.random.Generator, lengths: list[int]) -> list[tuple[SlotRange, ...]]:
    """Rows of these lengths over random blocks, some of them next to each other."""
    free = list(rng.permutation(NUM_SLOTS // 32 // 2))
    rows = []
    for length in lengths:
        slot_ranges: list[SlotRange] = []
        while length > 0:
            first, size = 64 * int(free.pop()), int(rng.choice([32, 64]))
            slot_ranges.append((first, first + min(size, length)))
            length -= size
        rows.append(tuple(slot_ranges))
    return rows


class Case:
    """Random pools and a batch over them."""

    def __init__(self, geometry: Geometry, dtype: str, lengths: list[int], num_kv_heads: int = 2) -> None:
        rng = np.random.default_rng(geometry.dim + geometry.group)
        self.geometry, self.dtype, self.num_kv_heads = geometry, dtype, num_kv_heads
        self.num_heads = num_kv_heads * geometry.group
        self.slot_ranges = scattered(rng, lengths)
        dim, rows = geometry.dim, len(lengths)
        self.queries = self.draw(rng, rows, self.num_heads, 1, dim)
        self.new = [self.draw(rng, rows, num_kv_heads, 1, dim) for _ in range(2)]
        self.pools = [self.pack(self.draw(rng, num_kv_heads, NUM_SLOTS, dim)) for _ in range(2)]
        self.scale = dim**-0.5
        self.sinks = rng.standard_normal(max(MIN_KERNEL_ELEMENTS, self.num_heads), dtype=np.float32)

    def draw(self, rng: np.random.Generator, *shape: int) -> Any:
        return to_bits(rng.standard_normal(shape, dtype=np.float32), self.dtype)

    def pack(self, elements: Any) -> Any:
        """As a pool keeps them; by MLX, which unlike NumPy knows every type."""
        packing = self.geometry.packing
        return elements if packing is None else np.array(packing.pack(mx, self.to_mlx(elements)))

    def unpack(self, pool: Any) -> Any:
        packing, dtype = self.geometry.packing, getattr(mx, self.dtype)
        if packing is None:
            return from_bits(pool, self.dtype)
        return np.array(packing.unpack(mx, mx.array(pool), dtype).astype(mx.float32))

    def to_mlx(self, elements: Any) -> mx.array:
        array = mx.array(elements)
        return array.view(mx.bfloat16) if self.dtype == "bfloat16" else array

    def lay_out(self, window: int | None = None, num_rows: int | None = None) -> DecodeTables:
        kind = LayerKind(self.num_kv_heads * self.geometry.tiles, window)
        return make_tables(self.slot_ranges, shared_prefixes(self.slot_ranges), kind, num_rows)

    def compute(self, library: Any, laid_out: DecodeTables) -> Floats:
        """Both passes; the result is (rows, heads, dim)."""
        dim, num_splits = self.geometry.dim, len(laid_out.splits)
        outs = np.full((num_splits, self.num_heads, dim), np.nan, np.float32)
        stats = np.full((num_splits, self.num_heads, 2), np.nan, np.float32)
        nothing = np.zeros((1, 1, 1, MIN_KERNEL_ELEMENTS), np.float32)
        shared = self.read_shared(library, laid_out) if laid_out.shared else (nothing, nothing)
        inputs = [self.queries, *self.new, *self.pools, laid_out.block_table, laid_out.splits, nothing]
        grid = (num_splits, self.num_kv_heads * self.geometry.tiles)
        launch(library, SPLIT, inputs, [outs, stats], grid)
        result, fence = np.zeros_like(self.queries), np.full(MIN_KERNEL_ELEMENTS, 7, np.float32)
        inputs = [outs, stats, *shared, laid_out.row_partials, self.sinks]
        launch(library, COMBINE, inputs, [result, fence], (len(self.queries), self.num_heads))
        assert not fence.any()
        return from_bits(result, self.dtype)[:, :, 0]

    def read_shared(self, library: Any, laid_out: DecodeTables) -> tuple[Any, Any]:
        """What matmuls and their softmax hand to the second pass; float32 only."""
        outs, stats = [], []
        for tile in laid_out.shared:
            rows, group = len(tile.rows), self.geometry.group
            queries = self.queries[list(tile.rows)].reshape(rows, self.num_kv_heads, group, -1).swapaxes(0, 1)
            keys, values = (pool[:, slice(*tile.slot_range)] for pool in self.pools)
            queries = queries.reshape(self.num_kv_heads, rows * group, -1)
            scores = np.ascontiguousarray(queries @ keys.swapaxes(1, 2))
            weights, part = np.empty_like(scores), np.empty((*scores.shape[:2], 2), np.float32)
            launch(library, SOFTMAX, [scores], [weights, part], scores.shape[1::-1])
            outs.append((weights @ values).reshape(self.num_kv_heads, rows, group, -1))
            stats.append(part.reshape(self.num_kv_heads, rows, group, 2))
        return np.concatenate(outs, axis=1), np.concatenate(stats, axis=1)

    def expect(self, window: int | None, sinks: bool) -> Floats:
        """The same in NumPy; pools must hold the new keys and values by now."""
        keys, values = (self.unpack(pool) for pool in self.pools)
        rows = []
        for query, slot_ranges in zip(from_bits(self.queries, self.dtype), self.slot_ranges, strict=True):
            slots = np.concatenate([np.arange(first, end) for first, end in slot_ranges])[
                -window if window else 0 :
            ]
            chosen = self.sinks[: self.num_heads] if sinks else None
            rows.append(plain(query[:, 0], keys[:, slots], values[:, slots], self.scale, chosen))
        return np.array(rows)
