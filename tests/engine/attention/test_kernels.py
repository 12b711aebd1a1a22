"""The kernels' text, run by the C++ compiler, against attention written out in NumPy."""

from itertools import product

import mlx.core as mx
import numpy as np
import pytest

from pensieve.cache.kv import MIN_KERNEL_ELEMENTS
from pensieve.cache.packing import Packing
from pensieve.engine.attention.kernels import tables
from pensieve.engine.attention.kernels.paged_kernels import _centred
from pensieve.engine.attention.kernels.source import APPEND, GATHER, Geometry
from pensieve.engine.attention.kernels.tables import SplitColumn, make_block_table
from pensieve.engine.attention.shared_prefixes import last_slots

from ...budget import sampled
from .compiled import build, launch, needs_compiler
from .kernel_cases import Case

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


def test_shared_tiles_are_read_apart_and_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows share a head, two of them share more, and a third is alone with a short tail."""
    monkeypatch.setattr(tables, "SHARED_ROWS", 1)
    monkeypatch.setattr(tables, "SHARED_SLOTS", 64)
    monkeypatch.setattr(tables, "SHARED_TILE", 96)
    case = Case(Geometry(64, 4, 4), "float32", [40, 300, 7])
    head, more = ((0, 160), (320, 448)), ((640, 736),)
    case.slot_ranges = [(*head, *more, (1024, 1064)), (*head, *more, (1088, 1388)), (*head, (2048, 2055))]
    laid_out = case.lay_out()
    assert [tuple(tile) for tile in laid_out.shared] == [
        ((0, 1, 2), (0, 96)),
        ((0, 1, 2), (96, 160)),
        ((0, 1, 2), (320, 416)),
        ((0, 1, 2), (416, 448)),
        ((0, 1), (640, 736)),
    ]
    assert laid_out.splits[:, SplitColumn.FIRST].min() >= 288, "the kernel does not read the head"
    check(case)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_what_all_keys_have_in_common_costs_shared_scores_no_precision(dtype: mx.Dtype) -> None:
    """As in models with biases in their keys; rounded before it is taken off, it leaves 10 % of error."""
    rng = np.random.default_rng(0)
    queries, keys = (rng.standard_normal((2, count, 128), dtype=np.float32) for count in (8, 512))
    queries[..., 5], keys[..., 5] = 40, 40 + 0.1 * keys[..., 5]
    q, k = mx.array(queries * 0.125).astype(dtype), mx.array(keys).astype(dtype)
    centred, levels = _centred(q, k, mx.zeros((MIN_KERNEL_ELEMENTS,)))
    scores = q @ centred.swapaxes(1, 2)
    exact = np.array(q.astype(mx.float32)) @ np.array(k.astype(mx.float32)).swapaxes(1, 2)
    assert np.abs(exact).max() > 150
    rounded = np.array(scores.astype(mx.float32) + levels)
    assert np.abs(rounded - exact).max() < 0.05


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
    launch(library, APPEND, [*new, *case.pools, slots[-100:].copy(), nothing], [fence], (100, 2))
    assert not fence.any()
    joined = [np.zeros((1, 2, 333, 80), np.float16) for _ in range(2)]
    table = case.lay_out().block_table
    extent = np.array([333, 0, 0, 0, 0, 0, 0, 0], np.int32)
    launch(library, GATHER, [*case.pools, table, extent, nothing], joined, (333, 2))
    for part, pool, fresh in zip(joined, case.pools, new, strict=True):
        assert (part[0] == case.unpack(pool)[:, slots]).all()
        assert (part[:, :, -100:] == case.unpack(case.pack(fresh))).all()


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
