"""The pools: what is written is what is read, as it is or quantised, in MLX and in NumPy."""

import os
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from pensieve.cache.kv import ArrayPools, HostPools, LayerShape


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_a_token_far_from_others_takes_little_memory() -> None:
    """NumPy asks for huge pages: a new sequence had 2 MB cleared for every head of every layer."""
    pools = HostPools([LayerShape(8, 64, 64, mx.float32, 16)] * 8, 4000)
    before = resident_bytes()
    for layer in range(8):
        row = np.ones((8, 1, 64), np.float32)
        pools.write(layer, np.array([64_000], np.int32), row, row)
    assert resident_bytes() - before < 32_000_000  # of 128 heads


def shape(kv_bits: int) -> LayerShape:
    return LayerShape(2, 64, 32, mx.float32, kv_bits)


@pytest.mark.parametrize("kv_bits", [16, 8, 4])
@pytest.mark.parametrize("kind", [ArrayPools, HostPools])
def test_what_is_written_is_read(kind: Any, kv_bits: int) -> None:
    pools, rng = kind([shape(kv_bits)] * 2, 3), np.random.default_rng(0)
    keys, values = (rng.standard_normal((2, 5, dim), dtype=np.float32) for dim in (64, 32))
    slots = np.array([70, 3, 95, 4, 0], np.int32)
    as_array = mx.array if kind is ArrayPools else np.asarray
    pools.write(1, slots, as_array(keys), as_array(values))
    for pool, written in ((pools.keys[1], keys), (pools.values[1], values)):
        assert pool.shape == (2, 96, written.shape[2])
        read = np.array(pool[:, 3:5])
        off = np.abs(read - written[:, [1, 3]]).max()
        assert off == 0 if kv_bits == 16 else off < 8 / 2**kv_bits
        assert (np.array(pool.head(1)[3:5]) == read[1]).all()


def test_pools_are_made_of_arrays_again() -> None:
    pools = ArrayPools([shape(8)] * 2, 1)
    pools.write(1, np.array([7], np.int32), mx.ones((2, 1, 64)), mx.ones((2, 1, 32)))
    again = ArrayPools.of([shape(8)] * 2, pools.arrays(), pools.write_fences)
    assert (again.keys[1][:, 7] == 1).all()
    assert (again.values[1][:, 7] == 1).all()


@pytest.mark.parametrize(
    ("kv_bits", "expected"), [(16, 2 * 96 * 4), (8, 2 * (96 + 3 * 8)), (4, 2 * (48 + 3 * 8))]
)
def test_a_tokens_bytes_are_what_the_pools_take(kv_bits: int, expected: int) -> None:
    pools = ArrayPools([shape(kv_bits)], 2)
    assert sum(array.nbytes for array in pools.arrays()) == 64 * expected
    assert shape(kv_bits).bytes_per_token == expected


@pytest.mark.parametrize(("kv_bits", "expected"), [(16, 48 * 4), (8, 48 + 3 * 8), (4, 24 + 3 * 8)])
@pytest.mark.parametrize("kind", [ArrayPools, HostPools])
def test_values_that_are_a_part_of_keys_take_no_memory(kind: Any, kv_bits: int, expected: int) -> None:
    latent, rng = LayerShape(1, 48, 32, mx.float32, kv_bits, values_in_keys=True), np.random.default_rng(0)
    pools = kind([latent, shape(kv_bits)], 2)
    rows = rng.standard_normal((1, 3, 48), dtype=np.float32)
    pools.write(0, np.array([7, 1, 60], np.int32), mx.array(rows) if kind is ArrayPools else rows, None)
    keys, values = np.array(pools.keys[0][:]), np.array(pools.values[0][:])
    assert np.abs(keys[:, [7, 1, 60]] - rows).max() < (1e-6 if kv_bits == 16 else 8 / 2**kv_bits)
    assert values.shape == pools.values[0].shape == (1, 64, 32)
    assert (values == keys[..., :32]).all()
    assert (np.array(pools.values[0].head(0)[1:9]) == values[0, 1:9]).all()
    assert latent.bytes_per_token == expected
    if kind is ArrayPools:
        assert sum(array.nbytes for array in pools.arrays()) == 64 * (
            expected + shape(kv_bits).bytes_per_token
        )
        again = ArrayPools.of([latent, shape(kv_bits)], pools.arrays(), pools.write_fences)
        assert (np.array(again.values[0][:]) == values).all()
        assert (again.values[1][:] == 0).all()
