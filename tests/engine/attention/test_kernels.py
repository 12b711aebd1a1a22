"""The kernels' text, run by the C++ compiler, against attention written out in NumPy."""

from itertools import product

import numpy as np
import pytest

from pensieve.cache.kv import MIN_KERNEL_ELEMENTS
from pensieve.cache.packing import Packing
from pensieve.engine.attention.kernels import decode_tables, tiles
from pensieve.engine.attention.kernels.geometry import Geometry
from pensieve.engine.attention.kernels.source import APPEND, GATHER
from pensieve.engine.attention.kernels.tables import SplitColumn, TileColumn, make_block_table
from pensieve.engine.attention.shared_prefixes import last_slots

from ...budget import sampled
from .compiled import build, from_bits, launch, needs_compiler
from .kernel_cases import Case
from .naive import attend

pytestmark = needs_compiler

ROUNDING = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1e-2}
SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}


def check(case: Case, window: int | None = None, sinks: bool = False) -> None:
    library = build(case.geometry, case.dtype, case.scale, sinks)
    laid_out = case.lay_out(window)
    result = case.compute(library, laid_out)
    for new, pool in zip(case.new, case.pools, strict=True):
        newest = [slot_ranges[-1][1] - 1 for slot_ranges in case.slot_ranges]
        assert (pool[:, newest] == case.pack(new[:, :, 0].swapaxes(0, 1))).all(), "the newest token is stored"
    expected = case.expect(window, sinks)
    error = np.abs(result - expected).max() / np.abs(expected).max()
    assert error < ROUNDING[case.dtype]


@pytest.mark.parametrize(
    ("dim", "dtype"),
    sampled(
        product([16, 32, 64, 80, 96, 128, 256], ["float32", "float16", "bfloat16"]),
        kept=[(16, "bfloat16"), (64, "float16"), (80, "float32"), (128, "bfloat16"), (256, "float32")],
    ),
)
def test_every_head_size_and_type_is_exact(dim: int, dtype: str) -> None:
    check(Case(Geometry(dim, 4, SIZES[dtype]), dtype, [1, 2, 31, 33, 700, 257]))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("dim", "dtype"),
    sampled(
        [
            (16, "float32"),
            (64, "bfloat16"),
            (80, "float16"),
            (96, "bfloat16"),
            (128, "bfloat16"),
            (128, "float16"),
            (256, "float32"),
        ],
        kept=[(64, "bfloat16"), (80, "float16"), (96, "bfloat16")],
    ),
)
def test_quantised_pools_are_written_and_read_to_the_bit(dim: int, dtype: str, bits: int) -> None:
    packing = Packing(dim, bits, SIZES[dtype])
    case = Case(Geometry(dim, 4, SIZES[dtype], packing), dtype, [1, 2, 31, 33, 700, 257])
    check(case, sinks=dim == 64, window=100 if dim == 96 else None)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_quantised_pools_do_not_hide_what_is_no_number(broken: float) -> None:
    case = Case(Geometry(64, 2, 4, Packing(64, 8, 4)), "float32", [90, 600])
    case.new[0][0, 1, 0, 40] = broken
    library = build(case.geometry, case.dtype, case.scale)
    result = case.compute(library, case.lay_out())
    assert np.isnan(result[0, 2:]).all(), "all heads of the KV head that it came with"
    assert np.isfinite(result[0, :2]).all()
    assert np.isfinite(result[1]).all()


@pytest.mark.parametrize("group", sampled([1, 2, 3, 5, 7, 8, 12, 16], kept=[1, 5, 8, 16]))
def test_every_group_of_query_heads_is_exact(group: int) -> None:
    check(Case(Geometry(128, group, 4), "float32", [300, 1, 64]))


@pytest.mark.parametrize("window", [1, 5, 100, 5000])
def test_a_window_hides_older_tokens(window: int) -> None:
    check(Case(Geometry(64, 2, 4), "float32", [1, 90, 600]), window=window)


def test_sinks_take_their_share() -> None:
    check(Case(Geometry(64, 8, 4), "float32", [1, 90, 600]), sinks=True)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short stretches are shared, and cut into several tiles."""
    for name, value in {"MIN_SHARED": 32, "MIN_SAVED": 64}.items():
        monkeypatch.setattr(decode_tables, name, value)
    monkeypatch.setattr(tiles, "MIN_TILE", 64)


NESTED = [
    ((0, 160), (320, 448), (640, 736), (1024, 1064)),
    ((0, 160), (320, 448), (640, 736), (1088, 1388)),
    ((0, 160), (320, 448), (2048, 2055)),
]
"""All rows share a head, two of them share more, and a third is alone with a short tail."""


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("dim", "group", "dtype", "bits"),
    sampled(
        [
            (64, 4, "float32", 16),
            (128, 4, "bfloat16", 16),
            (96, 1, "float16", 16),
            (80, 16, "bfloat16", 8),
            (256, 5, "float16", 4),
        ],
        kept=[(64, 4, "float32", 16), (80, 16, "bfloat16", 8)],
    ),
)
def test_shared_stretches_are_read_in_tiles_and_joined(dim: int, group: int, dtype: str, bits: int) -> None:
    packing = Packing(dim, bits, SIZES[dtype]) if bits < 16 else None
    case = Case(Geometry(dim, group, SIZES[dtype], packing), dtype, [40, 300, 7])
    case.slot_ranges = list(NESTED)
    laid_out = case.lay_out()
    spans = laid_out.tiles[: len(laid_out.tiles), [TileColumn.FIRST, TileColumn.END, TileColumn.COUNT]]
    head = [[first, min(first + 64, 288), 3] for first in range(0, 288, 64)]
    assert spans.tolist()[:7] == [*head, [288, 352, 2], [352, 384, 2]]
    assert laid_out.splits[:, SplitColumn.FIRST].min() >= 288, "the kernel of splits does not read the head"
    check(case)


@pytest.mark.usefixtures("small_tiles")
def test_more_rows_than_a_tile_has_queries_take_several_tiles() -> None:
    case = Case(Geometry(16, 16, 4), "float32", [1] * 9)
    case.slot_ranges = [((0, 96), (1024 + 32 * row, 1030 + 32 * row)) for row in range(9)]
    assert sorted(case.lay_out().tiles[:, TileColumn.COUNT].tolist(), reverse=True)[:5] == [4, 4, 4, 4, 1]
    check(case)


def check_slice(case: Case, length: int, window: int | None = None, sinks: bool = False) -> None:
    """Compare a slice, alone and padded, with attention written out in NumPy."""
    dim = case.geometry.dim
    padding = 1 + length // 3
    case.queries = case.draw(np.random.default_rng(5), 1, case.num_heads, length, dim)
    library = build(case.geometry, case.dtype, case.scale, sinks)
    result = case.compute_slice(library, length, window)
    of_tokens = case.queries
    case.queries = np.concatenate([of_tokens, np.ones_like(of_tokens[:, :, :padding])], axis=2)
    padded = case.compute_slice(library, length, window, padding)
    assert not padded[:, length:].any()
    assert np.abs(padded[:, :length] - result).max() < ROUNDING[case.dtype]
    case.queries = of_tokens
    keys, values = case.read()
    queries = from_bits(case.queries, case.dtype)[0]
    chosen = case.sinks[: case.num_heads] if sinks else None
    ranges = list(case.slot_ranges[0])
    expected = attend(queries, keys, values, ranges, case.scale, window, chosen)
    assert np.abs(result - expected).max() / np.abs(expected).max() < ROUNDING[case.dtype]


@pytest.mark.parametrize(
    ("dim", "group", "dtype"),
    sampled(
        [
            (16, 3, "float32"),
            (64, 16, "float16"),
            (80, 4, "bfloat16"),
            (96, 1, "bfloat16"),
            (128, 4, "bfloat16"),
            (128, 7, "float16"),
            (256, 3, "bfloat16"),
        ],
        kept=[(16, 3, "float32"), (128, 4, "bfloat16")],
    ),
)
@pytest.mark.parametrize(
    ("length", "total"),
    sampled([(1, 1), (70, 70), (131, 400), (33, 833)], kept=[(1, 1), (131, 400)]),
)
def test_a_slice_is_causal_at_every_length(dim: int, group: int, dtype: str, length: int, total: int) -> None:
    check_slice(Case(Geometry(dim, group, SIZES[dtype]), dtype, [total]), length)


@pytest.mark.parametrize("window", sampled([1, 5, 100, 5000], kept=[5, 5000]))
def test_a_window_hides_older_tokens_of_a_slice(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr(tiles, "MIN_TILE", 64)
    check_slice(Case(Geometry(64, 2, 4), "float32", [600]), 200, window, sinks=True)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_slice_reads_quantised_pools(bits: int) -> None:
    check_slice(Case(Geometry(64, 4, 2, Packing(64, bits, 2)), "bfloat16", [300]), 100, sinks=True)


def test_a_slice_does_not_read_beyond_its_tokens() -> None:
    case = Case(Geometry(64, 2, 4), "float32", [300])
    slots = np.concatenate([np.arange(first, end) for first, end in case.slot_ranges[0]])
    unread = np.setdiff1d(np.arange(case.pools[0].shape[1]), slots)
    for pool in case.pools:
        pool[:, unread] = np.nan
    check_slice(case, 100)


def test_nan_in_the_pool_shows() -> None:
    """It must reach the logits: a sequence over broken KV is to end, and its blocks to leave the tree."""
    case = Case(Geometry(64, 2, 4), "float32", [90, 600])
    library = build(case.geometry, case.dtype, case.scale)
    case.pools[0][:, case.slot_ranges[0][0][0]] = np.nan
    laid_out = case.lay_out()
    result = case.compute(library, laid_out)
    assert np.isnan(result[0]).all()
    assert not np.isnan(result[1]).any()


def test_rows_that_pad_the_batch_disturb_nothing() -> None:
    case = Case(Geometry(64, 2, 4), "float32", [90, 600, 1])
    library = build(case.geometry, case.dtype, case.scale)
    laid_out = case.lay_out()
    alone = case.compute(library, laid_out)
    case.queries = np.concatenate([case.queries, np.ones_like(case.queries[:1])])
    padded = case.lay_out(num_rows=4)
    result = case.compute(library, padded)
    assert (result[:3] == alone).all()
    assert not result[3].any()


@pytest.mark.parametrize("packing", [None, Packing(80, 8, 2), Packing(80, 4, 2)])
def test_a_slice_is_appended_and_gathered_through_the_blocks(packing: Packing | None) -> None:
    case = Case(Geometry(80, 1, 2, packing), "float16", [333])
    library = build(case.geometry, case.dtype, case.scale)
    slots = np.concatenate([np.arange(first, end, dtype=np.int32) for first, end in case.slot_ranges[0]])
    rng = np.random.default_rng(1)
    new = [case.draw(rng, 1, 2, 100, 80) for _ in range(2)]
    fence, nothing = (np.full(MIN_KERNEL_ELEMENTS, fill, np.float32) for fill in (7, 0))
    padded = [np.concatenate([part, part[:, :, :5]], axis=2) for part in new]
    written = np.concatenate([slots[-100:], np.full(5, -1, np.int32)])
    launch(library, APPEND, [*padded, *case.pools, written, nothing], [fence], (105, 2))
    assert not fence.any()
    joined = [np.zeros((1, 2, 333, 80), np.float16) for _ in range(2)]
    table = case.lay_out().block_table
    extent = np.array([333, 0, 0, 0, 0, 0, 0, 0], np.int32)
    launch(library, GATHER, [*case.pools, table, extent, nothing], joined, (333, 2))
    for part, pool, fresh in zip(joined, case.pools, new, strict=True):
        assert (part[0] == case.unpack(pool, 80)[:, slots]).all()
        assert (part[:, :, -100:] == case.unpack(case.pack(fresh), 80)).all()


def test_the_end_of_a_sequence_is_gathered_from_inside_a_block() -> None:
    case = Case(Geometry(16, 1, 4), "float32", [333])
    library = build(case.geometry, case.dtype, case.scale)
    slot_ranges = last_slots(case.slot_ranges[0], 120)
    assert slot_ranges[0][0] % 32
    joined = [np.zeros((1, 2, 120, 16), np.float32) for _ in range(2)]
    extent = np.array([120, slot_ranges[0][0] % 32, 0, 0, 0, 0, 0, 0], np.int32)
    launch(
        library,
        GATHER,
        [*case.pools, make_block_table([slot_ranges]), extent, np.zeros(MIN_KERNEL_ELEMENTS, np.float32)],
        joined,
        (120, 2),
    )
    slots = np.concatenate([np.arange(first, end) for first, end in slot_ranges])
    for part, pool in zip(joined, case.pools, strict=True):
        assert (part[0] == pool[:, slots]).all()
