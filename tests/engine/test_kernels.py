"""The kernels' text, run by the C++ compiler, against attention written out in NumPy."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from pensieve.cache.packing import Packing
from pensieve.engine.kernels import tables
from pensieve.engine.kernels.device import _centred
from pensieve.engine.kernels.source import APPEND, COMBINE, GATHER, SOFTMAX, SPLIT, Geometry
from pensieve.engine.kernels.tables import Tables, block_table, make_tables
from pensieve.engine.segments import last_slots, segments
from pensieve.engine.step import Run

from .compiled import build, from_bits, has_compiler, launch, to_bits

Floats = npt.NDArray[np.float32]

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")

ROUNDING = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1e-2}
SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}
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


def scattered(rng: np.random.Generator, lengths: list[int]) -> list[tuple[Run, ...]]:
    """Rows of these lengths over random blocks, some of them next to each other."""
    free = list(rng.permutation(NUM_SLOTS // 32 // 2))
    rows = []
    for length in lengths:
        runs: list[Run] = []
        while length > 0:
            first, size = 64 * int(free.pop()), int(rng.choice([32, 64]))
            runs.append((first, first + min(size, length)))
            length -= size
        rows.append(tuple(runs))
    return rows


class Case:
    """Random pools and a batch over them."""

    def __init__(self, geometry: Geometry, dtype: str, lengths: list[int], num_kv_heads: int = 2) -> None:
        rng = np.random.default_rng(geometry.dim + geometry.group)
        self.geometry, self.dtype, self.num_kv_heads = geometry, dtype, num_kv_heads
        self.num_heads = num_kv_heads * geometry.group
        self.runs = scattered(rng, lengths)
        dim, rows = geometry.dim, len(lengths)
        self.queries = self.draw(rng, rows, self.num_heads, 1, dim)
        self.new = [self.draw(rng, rows, num_kv_heads, 1, dim) for _ in range(2)]
        self.pools = [self.pack(self.draw(rng, num_kv_heads, NUM_SLOTS, dim)) for _ in range(2)]
        self.scale = dim**-0.5
        self.sinks = rng.standard_normal(max(8, self.num_heads), dtype=np.float32)

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

    def compute(self, library: Any, laid_out: Tables) -> Floats:
        """Both passes; the result is (rows, heads, dim)."""
        dim, num_items = self.geometry.dim, len(laid_out.items)
        outs = np.full((num_items, self.num_heads, dim), np.nan, np.float32)
        stats = np.full((num_items, self.num_heads, 2), np.nan, np.float32)
        nothing = np.zeros((1, 1, 1, 8), np.float32)
        extra = self.read_shared(library, laid_out) if laid_out.shared else (nothing, nothing)
        inputs = [self.queries, *self.new, *self.pools, laid_out.table, laid_out.items, nothing]
        grid = (num_items, self.num_kv_heads * self.geometry.tiles)
        launch(library, SPLIT, inputs, [outs, stats], grid)
        result, done = np.zeros_like(self.queries), np.full(8, 7, np.float32)
        inputs = [outs, stats, *extra, laid_out.ranges, self.sinks]
        launch(library, COMBINE, inputs, [result, done], (len(self.queries), self.num_heads))
        assert not done.any()
        return from_bits(result, self.dtype)[:, :, 0]

    def read_shared(self, library: Any, laid_out: Tables) -> tuple[Any, Any]:
        """What matmuls and their softmax hand to the second pass; float32 only."""
        outs, stats = [], []
        for read in laid_out.shared:
            rows, group = len(read.rows), self.geometry.group
            queries = self.queries[list(read.rows)].reshape(rows, self.num_kv_heads, group, -1).swapaxes(0, 1)
            keys, values = (pool[:, slice(*read.run)] for pool in self.pools)
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
        for query, runs in zip(from_bits(self.queries, self.dtype), self.runs, strict=True):
            slots = np.concatenate([np.arange(first, end) for first, end in runs])[-window if window else 0 :]
            chosen = self.sinks[: self.num_heads] if sinks else None
            rows.append(plain(query[:, 0], keys[:, slots], values[:, slots], self.scale, chosen))
        return np.array(rows)


def check(folder: Path, case: Case, window: int | None = None, sinks: bool = False) -> None:
    library = build(folder, case.geometry, case.dtype, case.scale, sinks)
    laid_out = make_tables(case.runs, segments(case.runs), case.num_kv_heads * case.geometry.tiles, window)
    result = case.compute(library, laid_out)
    for new, pool in zip(case.new, case.pools, strict=True):
        newest = [runs[-1][1] - 1 for runs in case.runs]
        assert (pool[:, newest] == case.pack(new[:, :, 0].swapaxes(0, 1))).all(), "the newest token is stored"
    expected = case.expect(window, sinks)
    error = np.abs(result - expected).max() / np.abs(expected).max()
    assert error < ROUNDING[case.dtype]


@pytest.mark.parametrize("dim", [16, 32, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_head_size_and_type_is_exact(tmp_path: Path, dim: int, dtype: str) -> None:
    check(tmp_path, Case(Geometry(dim, 4, SIZES[dtype]), dtype, [1, 2, 31, 33, 700, 257]))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("dim", "dtype"),
    [
        (16, "float32"),
        (64, "bfloat16"),
        (80, "float16"),
        (96, "bfloat16"),
        (128, "bfloat16"),
        (128, "float16"),
        (256, "float32"),
    ],
)
def test_quantised_pools_are_written_and_read_to_the_bit(
    tmp_path: Path, dim: int, dtype: str, bits: int
) -> None:
    packing = Packing(dim, bits, SIZES[dtype])
    case = Case(Geometry(dim, 4, SIZES[dtype], packing), dtype, [1, 2, 31, 33, 700, 257])
    check(tmp_path, case, sinks=dim == 64, window=100 if dim == 96 else None)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_quantised_pools_do_not_hide_what_is_no_number(tmp_path: Path, broken: float) -> None:
    case = Case(Geometry(64, 2, 4, Packing(64, 8, 4)), "float32", [90, 600])
    case.new[0][0, 1, 0, 40] = broken
    library = build(tmp_path, case.geometry, case.dtype, case.scale)
    result = case.compute(library, make_tables(case.runs, segments(case.runs), 2))
    assert np.isnan(result[0, 2:]).all(), "all heads of the KV head that it came with"
    assert np.isfinite(result[0, :2]).all()
    assert np.isfinite(result[1]).all()


@pytest.mark.parametrize("group", [1, 2, 3, 5, 7, 8, 12, 16])
def test_every_group_of_query_heads_is_exact(tmp_path: Path, group: int) -> None:
    check(tmp_path, Case(Geometry(128, group, 4), "float32", [300, 1, 64]))


@pytest.mark.parametrize("window", [1, 5, 100, 5000])
def test_a_window_hides_older_tokens(tmp_path: Path, window: int) -> None:
    check(tmp_path, Case(Geometry(64, 2, 4), "float32", [1, 90, 600]), window=window)


def test_sinks_take_their_share(tmp_path: Path) -> None:
    check(tmp_path, Case(Geometry(64, 8, 4), "float32", [1, 90, 600]), sinks=True)


def test_shared_stretches_are_read_apart_and_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows share a head, two of them share more, and a third is alone with a short tail."""
    monkeypatch.setattr(tables, "SHARED_ROWS", 1)
    monkeypatch.setattr(tables, "SHARED_SLOTS", 64)
    monkeypatch.setattr(tables, "SHARED_TILE", 96)
    case = Case(Geometry(64, 4, 4), "float32", [40, 300, 7])
    head, more = ((0, 160), (320, 448)), ((640, 736),)
    case.runs = [(*head, *more, (1024, 1064)), (*head, *more, (1088, 1388)), (*head, (2048, 2055))]
    laid_out = make_tables(case.runs, segments(case.runs), 2)
    assert [(read.rows, read.run) for read in laid_out.shared] == [
        ((0, 1, 2), (0, 96)),
        ((0, 1, 2), (96, 160)),
        ((0, 1, 2), (320, 416)),
        ((0, 1, 2), (416, 448)),
        ((0, 1), (640, 736)),
    ]
    assert laid_out.items[:, 1].min() >= 288, "the kernel does not read the head"
    check(tmp_path, case)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_what_all_keys_have_in_common_costs_shared_scores_no_precision(dtype: mx.Dtype) -> None:
    """As in models with biases in their keys; rounded before it is taken off, it leaves 10 % of error."""
    rng = np.random.default_rng(0)
    queries, keys = (rng.standard_normal((2, count, 128), dtype=np.float32) for count in (8, 512))
    queries[..., 5], keys[..., 5] = 40, 40 + 0.1 * keys[..., 5]
    q, k = mx.array(queries * 0.125).astype(dtype), mx.array(keys).astype(dtype)
    centred, levels = _centred(q, k, mx.zeros((8,)))
    scores = q @ centred.swapaxes(1, 2)
    exact = np.array(q.astype(mx.float32)) @ np.array(k.astype(mx.float32)).swapaxes(1, 2)
    assert np.abs(exact).max() > 150
    rounded = np.array(scores.astype(mx.float32) + levels)
    assert np.abs(rounded - exact).max() < 0.05


def test_nan_in_the_pool_shows(tmp_path: Path) -> None:
    """It must reach the logits: a sequence over broken KV is to end, and its blocks to leave the tree."""
    case = Case(Geometry(64, 2, 4), "float32", [90, 600])
    library = build(tmp_path, case.geometry, case.dtype, case.scale)
    case.pools[0][:, case.runs[0][0][0]] = np.nan
    laid_out = make_tables(case.runs, segments(case.runs), case.num_kv_heads * case.geometry.tiles)
    result = case.compute(library, laid_out)
    assert np.isnan(result[0]).all()
    assert not np.isnan(result[1]).any()


def test_uneven_rows_are_cut_into_even_items() -> None:
    runs: list[tuple[Run, ...]] = [((0, 131_072),), ((131_072, 131_073),), ((140_000 // 32 * 32, 145_000),)]
    laid_out = make_tables(runs, segments(runs), 8)
    sizes = laid_out.items[:, 2] - laid_out.items[:, 1]
    assert not laid_out.items[laid_out.ranges[-1, 1] :].any(), "empty items fill the table"
    assert sizes[: laid_out.ranges[-1, 1]].min() == 1
    assert sizes.max() == tables.MIN_ITEM
    assert len(laid_out.items) < 1.15 * laid_out.ranges[-1, 1]
    for row, (begin, end) in enumerate(laid_out.ranges[:, :2].tolist()):
        assert set(laid_out.items[begin:end, 0].tolist()) == {row}


def test_rows_that_pad_the_batch_disturb_nothing(tmp_path: Path) -> None:
    case = Case(Geometry(64, 2, 4), "float32", [90, 600, 1])
    library = build(tmp_path, case.geometry, case.dtype, case.scale)
    laid_out = make_tables(case.runs, segments(case.runs), case.num_kv_heads * case.geometry.tiles)
    alone = case.compute(library, laid_out)
    case.queries = np.concatenate([case.queries, np.ones_like(case.queries[:1])])
    padded = make_tables(case.runs, segments(case.runs), case.num_kv_heads * case.geometry.tiles, num_rows=4)
    result = case.compute(library, padded)
    assert (result[:3] == alone).all()
    assert not result[3].any()


def test_layouts_come_again_while_rows_grow() -> None:
    layouts = set()
    for length in range(2000, 6000, 7):
        runs: list[tuple[Run, ...]] = [
            ((0, 1024), (1024 + row * 8192, row * 8192 + length)) for row in range(5)
        ]
        layouts.add(make_tables(runs, segments(runs), 8, num_rows=6).layout)
    assert len(layouts) < 20


@pytest.mark.parametrize("packing", [None, Packing(80, 8, 2), Packing(80, 4, 2)])
def test_a_slice_is_appended_and_gathered_through_the_blocks(tmp_path: Path, packing: Packing | None) -> None:
    case = Case(Geometry(80, 1, 2, packing), "float16", [333])
    library = build(tmp_path, case.geometry, case.dtype, case.scale)
    slots = np.concatenate([np.arange(first, end, dtype=np.int32) for first, end in case.runs[0]])
    rng = np.random.default_rng(1)
    new = [case.draw(rng, 1, 2, 100, 80) for _ in range(2)]
    done, nothing = np.full(8, 7, np.float32), np.zeros(8, np.float32)
    launch(library, APPEND, [*new, *case.pools, slots[-100:].copy(), nothing], [done], (100, 2))
    assert not done.any()
    joined = [np.zeros((1, 2, 333, 80), np.float16) for _ in range(2)]
    table = make_tables(case.runs, segments(case.runs), 1).table
    extent = np.array([333, 0, 0, 0, 0, 0, 0, 0], np.int32)
    launch(library, GATHER, [*case.pools, table, extent, nothing], joined, (333, 2))
    for part, pool, fresh in zip(joined, case.pools, new, strict=True):
        assert (part[0] == case.unpack(pool)[:, slots]).all()
        assert (part[:, :, -100:] == case.unpack(case.pack(fresh))).all()


def test_the_end_of_a_sequence_is_gathered_from_inside_a_block(tmp_path: Path) -> None:
    case = Case(Geometry(16, 1, 4), "float32", [333])
    library = build(tmp_path, case.geometry, case.dtype, case.scale)
    runs = last_slots(case.runs[0], 120)
    assert runs[0][0] % 32
    joined = [np.zeros((1, 2, 120, 16), np.float32) for _ in range(2)]
    extent = np.array([120, runs[0][0] % 32, 0, 0, 0, 0, 0, 0], np.int32)
    launch(
        library, GATHER, [*case.pools, block_table([runs]), extent, np.zeros(8, np.float32)], joined, (120, 2)
    )
    slots = np.concatenate([np.arange(first, end) for first, end in runs])
    for part, pool in zip(joined, case.pools, strict=True):
        assert (part[0] == pool[:, slots]).all()
