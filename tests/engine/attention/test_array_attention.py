"""Attention in plain MLX against the textbook's."""

import mlx.core as mx
import numpy as np
import pytest

from pensieve.cache.kv import Pool
from pensieve.engine.attention import array_attention
from pensieve.engine.attention.array_attention import AttentionParams, attend_arrays, attend_slice

from . import naive


@pytest.mark.parametrize("window", [None, 1, 40, 700, 5000])
@pytest.mark.parametrize("has_sinks", [False, True])
def test_plain_attention_is_the_textbooks(window: int | None, has_sinks: bool) -> None:
    """Decode rows over one run and over several, and slices longer than a tile of queries."""
    rng = np.random.default_rng(window or 0)
    keys, values = (rng.standard_normal((2, 2048, 16), dtype=np.float32) for _ in range(2))
    sinks = 3 * rng.standard_normal(4, dtype=np.float32) if has_sinks else None
    params = AttentionParams(0.25, window, None if sinks is None else mx.array(sinks))
    for length, slot_ranges in [
        (1, [(32, 900)]),
        (1, [(64, 128), (512, 1400), (0, 9)]),
        (700, [(64, 128), (512, 1400)]),
    ]:
        queries = rng.standard_normal((4, length, 16), dtype=np.float32)
        k, v = (Pool(mx.array(rows), 16, None, mx.float32) for rows in (keys, values))
        found = attend_arrays(mx.array(queries[None]), k, v, [tuple(slot_ranges)], params)
        expected = naive.attend(queries, keys, values, slot_ranges, 0.25, window, sinks)
        np.testing.assert_allclose(np.array(found[0]), expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("has_sinks", [False, True])
def test_heads_that_mlx_does_not_fuse_are_attended_to_in_tiles(
    window: int | None, has_sinks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of other sizes than keys; and, as in latent attention, values that are a part of the keys."""
    monkeypatch.setattr(array_attention, "SCORES_TILE", 6 * 2000 * 100)
    rng = np.random.default_rng(0)
    sinks = 3 * rng.standard_normal(6, dtype=np.float32) if has_sinks else None
    params = AttentionParams(0.25, window, None if sinks is None else mx.array(sinks))
    keys = rng.standard_normal((2, 2048, 24), dtype=np.float32)
    values = rng.standard_normal((2, 2048, 16), dtype=np.float32)
    latent = Pool(mx.array(keys[:1]), 24, None, mx.float32)
    for k, v in [
        (Pool(mx.array(keys), 24, None, mx.float32), Pool(mx.array(values), 16, None, mx.float32)),
        (latent, latent.first(16)),
    ]:
        for length, slot_ranges in [
            (1, [(32, 900)]),
            (1, [(64, 128), (512, 1400), (0, 9)]),
            (250, [(64, 128), (512, 1400)]),
        ]:
            queries = rng.standard_normal((6, length, 24), dtype=np.float32)
            found = attend_arrays(mx.array(queries[None]), k, v, [tuple(slot_ranges)], params)
            kept = np.array(k[:]), np.array(v[:])
            expected = naive.attend(queries, kept[0], kept[1], slot_ranges, 0.25, window, sinks)
            np.testing.assert_allclose(np.array(found[0]), expected, rtol=1e-4, atol=2e-6)


def test_a_slice_reads_no_tile_outside_its_window() -> None:
    """What lies there is not a number, and would show."""
    total, length, window = 2000, 1500, 100
    keys = mx.random.normal((1, 1, total, 16))
    keys = mx.where(mx.arange(total)[:, None] < total - length - window, mx.nan, keys)
    out = attend_slice(mx.random.normal((1, 2, length, 16)), keys, keys, AttentionParams(1.0, window))
    assert not mx.isnan(out).any()
