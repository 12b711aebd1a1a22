"""The kernels' text in C++ that watches shared memory: a race on a GPU is a number here.

Plain C++ hides it, as a group's threads run one after another.
"""

import numpy as np
import pytest

from pensieve.engine.attention.kernels import decode_tables
from pensieve.engine.attention.kernels.geometry import Geometry
from pensieve.engine.attention.kernels.source import SPLIT_TILES, TILES

from .compiled import build, build_tiles, needs_compiler, races
from .kernel_cases import Case
from .missing_barrier import leave_out_barrier

pytestmark = needs_compiler

BARRIERS = {"split": 3, "combine": 2, "tiles": 4}

NARROW, WIDE = Geometry(32, 2, 4), Geometry(320, 2, 4, None, 256, values_in_keys=True)
"""The warps divide the rows of a tile, and its columns; WIDE values lie in keys."""


def meet(monkeypatch: pytest.MonkeyPatch, geometry: Geometry) -> int:
    """Count the races of all three kernels with barriers in a batch that shares a stretch."""
    monkeypatch.setattr(decode_tables, "MIN_SHARED", 64)
    monkeypatch.setattr(decode_tables, "MIN_SAVED", 64)
    case = Case(geometry, "float32", [40, 300, 7])
    case.slot_ranges = [((0, 160), (1024, 1064)), ((0, 160), (1088, 1388)), ((2048, 2055),)]
    library = build(geometry, "float32", case.scale, has_sinks=True, watched=True)
    kernels = (SPLIT_TILES, TILES) if geometry.values_in_keys else (TILES,)
    tilings = [case.tiling(False, is_single=each == SPLIT_TILES) for each in kernels]
    pairs = zip(tilings, kernels, strict=True)
    libraries = [build_tiles(*pair, "float32", case.scale, watched=True) for pair in pairs]
    libraries.append(library)
    num_before = sum(map(races, libraries))
    result = case.compute(library, case.lay_out(), watched=True)
    np.testing.assert_allclose(result, case.expect(None, sinks=True), rtol=1e-3, atol=1e-4)
    return sum(map(races, libraries)) - num_before


@pytest.mark.parametrize(("dim", "group"), [(16, 1), (32, 2), (64, 8), (80, 3), (128, 12), (256, 16)])
def test_threads_meet_in_shared_memory_at_barriers_only(
    monkeypatch: pytest.MonkeyPatch, dim: int, group: int
) -> None:
    assert meet(monkeypatch, Geometry(dim, group, 4)) == 0


def test_threads_that_divide_columns_meet_at_barriers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert meet(monkeypatch, WIDE) == 0


@pytest.mark.parametrize(
    ("kernel", "number"), [(kernel, i) for kernel, count in BARRIERS.items() for i in range(count)]
)
def test_a_barrier_that_is_missing_is_noticed(
    monkeypatch: pytest.MonkeyPatch, kernel: str, number: int
) -> None:
    """In plain C++ it would not be missed."""
    leave_out_barrier(monkeypatch, kernel, number, BARRIERS[kernel])
    is_wide = kernel == "tiles" and number in (0, 2)
    assert meet(monkeypatch, WIDE if is_wide else NARROW) > 0
