"""Random pools and batches for the kernels' text, and what must come of them, written out in NumPy."""

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from pensieve.cache.kv import MIN_KERNEL_ELEMENTS
from pensieve.cache.packing import Packing
from pensieve.engine.attention.kernels.decode_tables import make_decode_tables
from pensieve.engine.attention.kernels.geometry import Geometry, TileGeometry
from pensieve.engine.attention.kernels.hopper import HopperGeometry
from pensieve.engine.attention.kernels.layer_kernels import tile_kernel
from pensieve.engine.attention.kernels.source import COMBINE, SPLIT, SPLIT_TILES, TILES, Kernel, Language
from pensieve.engine.attention.kernels.tables import LayerKind, Tables
from pensieve.engine.attention.kernels.tiles import make_slice_tables
from pensieve.engine.attention.shared_prefixes import shared_prefixes
from pensieve.engine.step import SlotRange

from .compiled import build_tiles, from_bits, launch, to_bits

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
    """Random pools and a batch over them. Values that lie in keys are in the same pool."""

    language: Language = "cpp"  # whose tiles are computed, by the C++ compiler

    def __init__(self, geometry: Geometry, dtype: str, lengths: list[int], num_kv_heads: int = 2) -> None:
        rng = np.random.default_rng(geometry.dim + geometry.group)
        self.geometry, self.dtype, self.num_kv_heads = geometry, dtype, num_kv_heads
        self.num_heads = num_kv_heads * geometry.group
        self.slot_ranges = scattered(rng, lengths)
        dim, rows, dims = geometry.dim, len(lengths), (geometry.dim, geometry.value_dim)
        self.queries = self.draw(rng, rows, self.num_heads, 1, dim)
        self.new = [self.draw(rng, rows, num_kv_heads, 1, each) for each in dims]
        self.pools = [self.pack(self.draw(rng, num_kv_heads, NUM_SLOTS, each)) for each in dims]
        if geometry.values_in_keys:
            self.new, self.pools = self.new[:1], self.pools[:1]
        self.scale = dim**-0.5
        self.sinks = rng.standard_normal(max(MIN_KERNEL_ELEMENTS, self.num_heads), dtype=np.float32)

    def draw(self, rng: np.random.Generator, *shape: int) -> Any:
        return to_bits(rng.standard_normal(shape, dtype=np.float32), self.dtype)

    def pack(self, elements: Any) -> Any:
        """As a pool keeps them; by MLX, which unlike NumPy knows every type."""
        packing = self._packing(elements.shape[-1])
        return elements if packing is None else np.array(packing.pack(mx, self.to_mlx(elements)))

    def _packing(self, dim: int) -> Packing | None:
        return self.geometry.packing and replace(self.geometry.packing, dim=dim)

    def read(self) -> tuple[Any, Any]:
        """All keys and values."""
        keys, values = self.unpack(self.pools[0], self.geometry.dim), None
        if not self.geometry.values_in_keys:
            values = self.unpack(self.pools[1], self.geometry.value_dim)
        return keys, keys[..., : self.geometry.value_dim] if values is None else values

    def unpack(self, pool: Any, dim: int) -> Any:
        packing, dtype = self._packing(dim), getattr(mx, self.dtype)
        if packing is None:
            return from_bits(pool, self.dtype)
        return np.array(packing.unpack(mx, mx.array(pool), dtype).astype(mx.float32))

    def to_mlx(self, elements: Any) -> mx.array:
        array = mx.array(elements)
        return array.view(mx.bfloat16) if self.dtype == "bfloat16" else array

    def tiling(self, is_slice: bool, is_single: bool = False) -> TileGeometry | HopperGeometry:
        return TileGeometry(self.geometry, self.language, is_slice, is_single)

    def lay_out(self, window: int | None = None, num_rows: int | None = None) -> Tables:
        tiling, in_tiles = self.tiling(is_slice=False), self.geometry.values_in_keys
        groups = self.tiling(False, is_single=True).head_tiles if in_tiles else self.geometry.tiles
        tile_groups, num_groups = self.num_kv_heads * tiling.head_tiles, self.num_kv_heads * groups
        kind = LayerKind(tile_groups, num_groups, tiling.queries, window, in_tiles)
        return make_decode_tables(self.slot_ranges, shared_prefixes(self.slot_ranges), kind, num_rows)

    def compute(self, library: Any, laid_out: Tables, watched: bool = False) -> Floats:
        """Both passes; the result is (rows, heads, value_dim)."""
        if self.geometry.values_in_keys:
            splits = self._read_tiles(laid_out.block_table, laid_out.splits, SPLIT_TILES, watched=watched)
        else:
            splits = self._partials(len(laid_out.splits))
            nothing = np.zeros(MIN_KERNEL_ELEMENTS, np.float32)
            inputs = [self.queries, *self.new, *self.pools, laid_out.block_table, laid_out.splits, nothing]
            grid = (len(laid_out.splits), self.num_kv_heads * self.geometry.tiles)
            launch(library, SPLIT, inputs, list(splits), grid)
        tiles = self._read_tiles(laid_out.block_table, laid_out.tiles, TILES, watched=watched)
        return self.combine(library, splits, tiles, laid_out)[:, :, 0]

    def compute_slice(self, library: Any, length: int, window: int | None, padding: int = 0) -> Floats:
        """The last `length` tokens of the only row, already in the pools; (heads, length + padding, dim).

        padding: queries behind those of the tokens.
        """
        kind = LayerKind(self.num_kv_heads, 0, self.tiling(is_slice=True).queries, window)
        num_queries = length + padding if padding else None
        laid_out = make_slice_tables(self.slot_ranges[0], length, kind, num_queries)
        nothing = np.zeros(MIN_KERNEL_ELEMENTS, np.float32)
        kernel = tile_kernel(self.tiling(is_slice=True), getattr(mx, self.dtype))
        tiles = self._read_tiles(laid_out.block_table, laid_out.tiles, kernel, is_slice=True, window=window)
        result: Floats = self.combine(library, (nothing, nothing), tiles, laid_out)[0]
        return result

    def combine(self, library: Any, splits: Any, tiles: Any, laid_out: Tables) -> Floats:
        result = np.zeros((*self.queries.shape[:3], self.geometry.value_dim), self.queries.dtype)
        fence = np.full(MIN_KERNEL_ELEMENTS, 7, np.float32)
        inputs = [self.queries, *splits, *tiles, laid_out.query_partials, self.sinks]
        num_queries = self.queries.shape[0] * self.queries.shape[2]
        launch(library, COMBINE, inputs, [result, fence], (num_queries, self.num_heads))
        assert not fence.any()
        return from_bits(result, self.dtype)

    def _partials(self, count: int) -> tuple[Any, Any]:
        """NaN, which stays where a kernel writes none."""
        outs = np.full((count, self.num_heads, self.geometry.value_dim), np.nan, np.float32)
        return outs, np.full((count, self.num_heads, 2), np.nan, np.float32)

    def _read_tiles(
        self,
        block_table: Any,
        tiles: Any,
        kernel: Kernel,
        is_slice: bool = False,
        window: int | None = None,
        watched: bool = False,
    ) -> tuple[Any, Any]:
        """The partials of all tiles."""
        tiling = self.tiling(is_slice, is_single=kernel == SPLIT_TILES)
        partials = self._partials(max(1, len(tiles) * tiling.queries))
        if len(tiles):
            library = build_tiles(tiling, kernel, self.dtype, self.scale, window, watched)
            new = self.new if kernel == SPLIT_TILES else []
            pools = [self.pools[0], self.pools[-1]]
            inputs = [self.queries, *new, *pools, block_table, tiles, np.zeros(8, np.float32)]
            launch(
                library, kernel, inputs, list(partials), (len(tiles), self.num_kv_heads * tiling.head_tiles)
            )
        return partials

    def expect(self, window: int | None, sinks: bool) -> Floats:
        """The same in NumPy; pools must hold the new keys and values by now."""
        keys, values = self.read()
        rows = []
        for query, slot_ranges in zip(from_bits(self.queries, self.dtype), self.slot_ranges, strict=True):
            slots = np.concatenate([np.arange(first, end) for first, end in slot_ranges])[
                -window if window else 0 :
            ]
            chosen = self.sinks[: self.num_heads] if sinks else None
            rows.append(plain(query[:, 0], keys[:, slots], values[:, slots], self.scale, chosen))
        return np.array(rows)
