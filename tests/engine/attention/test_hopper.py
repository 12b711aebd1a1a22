"""The text of the kernel for Hopper, run by the C++ compiler: its threads, barriers and addresses.

It cannot show whether real matrix units do what the emulated ones do: `engine/selfcheck.py` does.
"""

import numpy as np
import pytest

from pensieve.engine.attention.kernels import tiles
from pensieve.engine.attention.kernels.geometry import Geometry, TileGeometry
from pensieve.engine.attention.kernels.hopper import HopperGeometry

from ...budget import sampled
from .compiled import needs_compiler
from .kernel_cases import Case
from .test_kernels import check_slice

pytestmark = needs_compiler


class HopperCase(Case):
    """A case whose slices are read by the kernel for Hopper."""

    def tiling(self, is_slice: bool, is_single: bool = False) -> TileGeometry | HopperGeometry:
        return HopperGeometry(self.geometry) if is_slice else super().tiling(is_slice, is_single)


@pytest.mark.parametrize(
    ("dim", "group", "dtype", "length", "total", "window"),
    sampled(
        [
            (128, 3, "bfloat16", 50, 333, 100),
            (64, 4, "float16", 37, 437, None),
            (256, 8, "bfloat16", 20, 201, None),
            (64, 16, "bfloat16", 9, 700, 1),
            (128, 1, "float16", 150, 150, 5000),
        ],
        kept=[(128, 3, "bfloat16", 50, 333, 100)],
    ),
)
def test_a_slice_is_exact_and_reads_only_its_tokens(
    monkeypatch: pytest.MonkeyPatch,
    dim: int,
    group: int,
    dtype: str,
    length: int,
    total: int,
    window: int | None,
) -> None:
    monkeypatch.setattr(tiles, "MIN_TILE", 192)
    case = HopperCase(Geometry(dim, group, 2), dtype, [total], num_kv_heads=1)
    slots = np.concatenate([np.arange(first, end) for first, end in case.slot_ranges[0]])
    unread = np.setdiff1d(np.arange(case.pools[0].shape[1]), slots)
    for pool in case.pools:
        pool[:, unread] = 0x7FFF if dtype == "bfloat16" else np.nan
    check_slice(case, length, window)
