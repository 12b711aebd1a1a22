"""NumPy's paged attention against the textbook's."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from pensieve.cache.kv import HostPools, LayerShape, Pool
from pensieve.engine.attention.array_attention import AttentionParams
from pensieve.engine.attention.host_attention import HostAttention
from pensieve.engine.attention.shared_prefixes import SharedPrefix, last_slots, shared_prefixes
from pensieve.engine.step import SlotRange

from ...budget import sampled
from .naive import attend

ATTENTION = HostAttention(num_threads=2)


def attend_paged(queries: Any, pool: Any, prefixes: list[SharedPrefix], params: AttentionParams) -> Any:
    """pool: keys and values, (2, num_kv_heads, num_slots, dim)."""
    keys, values = (Pool(rows, rows.shape[-1], None, np.float32) for rows in pool)
    return ATTENTION.attend(queries, keys, values, prefixes, params)


@pytest.mark.parametrize("group", sampled([1, 2, 3, 4, 8], kept=[1, 3]))
@pytest.mark.parametrize(
    ("start", "length"), [(0, 1), (0, 2), (0, 300), (343, 257), (800, 400), (500, 512), (1500, 33)]
)
def test_a_prefill_slice_sees_its_past_and_nothing_else(group: int, start: int, length: int) -> None:
    """Heads times length exceed a tile of queries in some of these: a tile then begins inside a head."""
    rng = np.random.default_rng(group * start + length)
    pool = rng.standard_normal((2, 2, 4096, 16), dtype=np.float32)
    queries = rng.standard_normal((1, 2 * group, length, 16), dtype=np.float32)
    for slot_ranges in ([(64, 64 + start + length)], split(start + length)):
        found = attend_paged(queries, pool, shared_prefixes([tuple(slot_ranges)]), AttentionParams(0.25))
        expected = attend(queries[0], pool[0], pool[1], slot_ranges, 0.25)
        np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=2e-6)


def test_decode_rows_see_all_of_their_own_slots_and_no_others() -> None:
    rng = np.random.default_rng(0)
    pool = rng.standard_normal((2, 2, 4096, 16), dtype=np.float32)
    rows: list[tuple[SlotRange, ...]] = [
        ((0, 1000), (2048, 2049)),
        ((0, 1000), (2080, 2144), (3008, 3010)),
        ((0, 640),),
        ((3200, 3201),),
        ((0, 1000), (2080, 2144), (3100, 3400)),
    ]
    queries = rng.standard_normal((len(rows), 8, 1, 16), dtype=np.float32)
    found = attend_paged(queries, pool, shared_prefixes(rows), AttentionParams(0.25))
    for row, slot_ranges in enumerate(rows):
        expected = attend(queries[row], pool[0], pool[1], list(slot_ranges), 0.25)
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("window", sampled([1, 20, 100, 600, 5000], kept=[20, 600]))
def test_a_slice_under_a_window_sees_what_is_near(window: int) -> None:
    """With sinks, over many heads: a tile of queries then begins inside a head."""
    rng = np.random.default_rng(window)
    pool = rng.standard_normal((2, 2, 4096, 16), dtype=np.float32)
    sinks = rng.standard_normal(8, dtype=np.float32)
    for start, length in [(0, 300), (343, 257), (100, 1500), (1500, 2)]:
        queries = rng.standard_normal((1, 8, length, 16), dtype=np.float32)
        slot_ranges = split(start + length)
        prefixes = shared_prefixes([last_slots(tuple(slot_ranges), window + length - 1)])
        found = attend_paged(queries, pool, prefixes, AttentionParams(0.25, window, mx.array(sinks)))
        expected = attend(queries[0], pool[0], pool[1], slot_ranges, 0.25, window, sinks)
        np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("window", [1, 30, 1000])
def test_rows_under_a_window_share_what_both_still_see(window: int) -> None:
    rng = np.random.default_rng(0)
    pool = rng.standard_normal((2, 2, 4096, 16), dtype=np.float32)
    rows: list[tuple[SlotRange, ...]] = [
        ((0, 1000), (2048, 2049)),
        ((0, 1000), (2048, 2049)),
        ((0, 900), (3008, 3010)),
    ]
    queries = rng.standard_normal((len(rows), 8, 1, 16), dtype=np.float32)
    sinks = rng.standard_normal(8, dtype=np.float32)
    prefixes = shared_prefixes([last_slots(slot_ranges, window) for slot_ranges in rows])
    found = attend_paged(queries, pool, prefixes, AttentionParams(0.25, window, mx.array(sinks)))
    for row, slot_ranges in enumerate(rows):
        expected = attend(queries[row], pool[0], pool[1], list(slot_ranges), 0.25, window, sinks)
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("kv_bits", [16, 8, 4])
def test_values_that_are_a_part_of_keys_are_kept_and_read_once(kv_bits: int) -> None:
    """As in latent attention: one KV head, many query heads; more threads than tiles divide the slots."""
    rng, shape = np.random.default_rng(kv_bits), LayerShape(1, 48, 32, mx.float32, kv_bits, True)
    pools, attention = HostPools([shape], 64), HostAttention(num_threads=5)
    rows = rng.standard_normal((1, 2048, 48), dtype=np.float32)
    pools.write(0, np.arange(2048, dtype=np.int32), rows, None)
    kept = np.asarray(pools.keys[0][:])  # as it is quantised
    cases: list[tuple[int, list[tuple[SlotRange, ...]]]] = [
        (1, [((0, 1000),), ((0, 900), (1024, 1030)), ((0, 1000), (1100, 1900)), ((5, 6),)]),
        (300, [((64, 128), (512, 1400))]),
        (2, [((32, 1900),)]),
    ]
    for length, slot_ranges in cases:
        queries = rng.standard_normal((len(slot_ranges), 20, length, 48), dtype=np.float32)
        prefixes = shared_prefixes(slot_ranges)
        found = attention.attend(queries, pools.keys[0], pools.values[0], prefixes, AttentionParams(0.25))
        assert found.shape == (len(slot_ranges), 20, length, 32)
        for row, own in enumerate(slot_ranges):
            expected = attend(queries[row], kept, kept[:, :, :32], list(own), 0.25)
            np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=3e-6)


def test_threads_that_divide_slots_count_a_sink_once() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2, 1, 2048, 16), dtype=np.float32)
    keys, values = (Pool(own, 16, None, np.float32) for own in rows)
    sinks = 5 * rng.standard_normal(8, dtype=np.float32)
    queries = rng.standard_normal((1, 8, 1, 16), dtype=np.float32)
    attention, params = HostAttention(num_threads=4), AttentionParams(0.25, None, mx.array(sinks))
    found = attention.attend(queries, keys, values, shared_prefixes([((3, 2001),)]), params)
    expected = attend(queries[0], rows[0], rows[1], [(3, 2001)], 0.25, None, sinks)
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=2e-6)


def test_scores_far_apart_do_not_overflow() -> None:
    pool = np.full((2, 1, 1024, 16), 30.0, np.float32)
    pool[0, 0, 600:] = -30.0
    queries = np.full((1, 1, 1, 16), 30.0, np.float32)
    found = attend_paged(queries, pool, shared_prefixes([((0, 1024),)]), AttentionParams(1.0))
    np.testing.assert_allclose(found, np.full_like(found, 30.0))


def split(total: int) -> list[SlotRange]:
    """The same number of slots in many runs, most of them short, out of order in memory."""
    slot_ranges: list[SlotRange] = []
    place = 4096
    for size in [32, 32, 320, 32, 64, 32, 640] * 4:
        size = min(size, total)
        if not size:
            break
        place -= size + 32
        slot_ranges.append((place, place + size))
        total -= size
    return slot_ranges
