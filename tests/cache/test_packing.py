"""Quantised rows: how far they are off, what they take, and that MLX and NumPy make the same bytes."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from pensieve.cache.packing import Packing

DIMS = [16, 64, 80, 96, 128, 256]


def draw(dim: int) -> Any:
    """Tokens of very different size, with a group of equal elements and one of zeros."""
    rng = np.random.default_rng(dim)
    sizes = np.float32(10) ** rng.integers(-3, 4, (3, 7, 1))
    elements = (rng.standard_normal((3, 7, dim)) * sizes).astype(np.float32)
    elements[0, 0, :16], elements[0, 1, :16] = 2.5, 0
    return elements


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dim", DIMS)
def test_an_element_is_off_by_half_a_step_at_most(dim: int, bits: int) -> None:
    packing, elements = Packing(dim, bits, 4), draw(dim)
    rows = packing.pack(np, elements)
    assert rows.shape == (3, 7, packing.row_bytes)
    assert rows.dtype == np.uint8
    groups = elements.reshape(3, 7, -1, packing.group)
    step = (groups.max(-1) - groups.min(-1)) / (2**bits - 1)
    error = np.abs(packing.unpack(np, rows, np.float32).reshape(groups.shape) - groups).max(-1)
    assert (error <= 0.501 * step + 1e-6 * np.abs(groups).max(-1)).all()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dim", DIMS)
def test_mlx_makes_the_bytes_that_numpy_makes(dim: int, bits: int) -> None:
    packing, elements = Packing(dim, bits, 4), draw(dim)
    rows = packing.pack(np, elements)
    assert (np.array(packing.pack(mx, mx.array(elements))) == rows).all()
    read = packing.unpack(mx, mx.array(rows), mx.float32)
    assert (np.array(read) == packing.unpack(np, rows, np.float32)).all()


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_a_rounded_scale_costs_at_most_another_step(dtype: mx.Dtype) -> None:
    packing = Packing(128, 8, 2)
    elements = mx.array(draw(128)).astype(dtype)
    read = packing.unpack(mx, packing.pack(mx, elements), dtype)
    assert read.dtype == dtype
    groups, found = (np.array(a.astype(mx.float32)).reshape(3, 7, -1, 32) for a in (elements, read))
    step = (groups.max(-1) - groups.min(-1)) / 255
    rounding = np.abs(groups).max(-1) * 2.0**-8
    assert (np.abs(found - groups).max(-1) <= 1.5 * step + rounding).all()


def test_a_tokens_bytes_are_its_own() -> None:
    packing, elements = Packing(64, 8, 4), draw(64)
    alone = packing.pack(np, elements[1:2, 3:4])
    assert (packing.pack(np, elements)[1:2, 3:4] == alone).all()


def test_equal_elements_are_kept_exactly() -> None:
    packing, elements = Packing(80, 4, 4), draw(80)
    read = packing.unpack(np, packing.pack(np, elements), np.float32)
    assert (read[0, 0, :16] == 2.5).all()
    assert (read[0, 1, :16] == 0).all()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("xp", [np, mx])
def test_what_is_no_number_shows(xp: Any, broken: float) -> None:
    """It must end its sequence; as a code it would be a number again."""
    packing, elements = Packing(64, 8, 4), draw(64)
    elements[2, 3, 40] = broken
    with np.errstate(invalid="ignore"):
        read = np.array(packing.unpack(xp, packing.pack(xp, xp.array(elements)), xp.float32))
    assert not np.isfinite(read[2, 3, 40])
    assert np.isfinite(read[2, 3, :32]).all()
    assert np.isfinite(read[:2]).all()


def test_scales_are_counted() -> None:
    assert Packing(128, 8, 2).row_bytes == 128 + 4 * 4
    assert Packing(128, 4, 2).row_bytes == 64 + 4 * 4
    assert Packing(80, 8, 4).row_bytes == 80 + 5 * 8, "32 does not divide 80, 16 does"


@pytest.mark.parametrize(("dim", "bits"), [(72, 8), (8, 4), (64, 3)])
def test_what_cannot_be_packed_is_refused(dim: int, bits: int) -> None:
    with pytest.raises(ValueError, match="KV"):
        Packing(dim, bits, 2)
