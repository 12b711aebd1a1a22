"""The kernels of the gated delta rule for prompts, their text run in C++, against a loop over tokens."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import gated_delta

from pensieve.engine.attention.kernels.source import Kernel
from pensieve.engine.recurrent.array_forms import array_delta_form
from pensieve.engine.recurrent.delta_call import DeltaCall
from pensieve.engine.recurrent.delta_chunks import DeltaChunks, usable_chunks

from ...budget import sampled
from ..attention.compiled import needs_compiler
from ..attention.missing_barrier import leave_out_barrier
from ..attention.typed_kernels import TypedLauncher, typed_launcher
from .token_loops import DeltaCase, distance

pytestmark = needs_compiler

ROUNDING = {mx.float32: 5e-5, mx.bfloat16: 1e-2}

GATED = [(1, 32), (1, 32), (2, 16), (2,), (2,)]
"""Shapes of a token's query, key, values, times and betas."""


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    mx.disable_compile()
    yield
    mx.enable_compile()


def rounded(case: DeltaCase, dtype: mx.Dtype = mx.float32) -> DeltaCase:
    """The case with numbers of the type, and betas that a sigmoid has."""
    case.betas = np.clip(case.betas, np.float32(1e-6), np.float32(1 - 1e-6))
    for name in ("queries", "keys", "values"):
        setattr(case, name, np.array(mx.array(getattr(case, name)).astype(dtype).astype(mx.float32)))
    return case


def call_of(case: DeltaCase, dtype: mx.Dtype = mx.float32) -> DeltaCall:
    """A call whose gates are those of a rounded case, by the inverses of softplus and sigmoid."""
    queries, keys, values = (
        mx.array(array).astype(dtype) for array in (case.queries, case.keys, case.values)
    )
    decays = -mx.array(case.log_decays)
    times = mx.where(decays > 20, decays, mx.log(mx.expm1(decays)))
    betas = mx.array(np.log(case.betas) - np.log1p(-case.betas))
    zeros = mx.zeros((case.values.shape[2],))
    return DeltaCall(queries, keys, values, times, betas, zeros, zeros, mx.array(case.state), None, 1.0)


@pytest.mark.parametrize(
    ("dims", "tile", "dtype"),
    sampled(
        [
            ((128, 128), 32, mx.bfloat16),
            ((64, 40), 16, mx.float32),
            ((96, 64), 32, mx.float32),
            ((192, 24), 16, mx.bfloat16),
            ((256, 128), 32, mx.bfloat16),
        ],
        kept=[((128, 128), 32, mx.bfloat16), ((64, 40), 16, mx.float32)],
    ),
)
def test_chunks_compute_what_tokens_one_by_one_compute(
    dims: tuple[int, int], tile: int, dtype: mx.Dtype
) -> None:
    tokens, rows = {64: (131, 2), 96: (64, 1), 128: (70, 1)}.get(dims[0], (9, 1))
    shape = (rows, tokens, 2, 4, *dims)
    case = rounded(DeltaCase(3, shape, by_element=False, repeats_keys=tile == 16), dtype)
    found = DeltaChunks(typed_launcher, tile).run(call_of(case, dtype))
    for array, right, rounding in zip(found, case.loop(), (ROUNDING[dtype], 5e-5), strict=True):
        assert distance(array.astype(mx.float32), right) < rounding


def test_a_prompt_cut_anywhere_leaves_the_same_state() -> None:
    whole = call_of(rounded(DeltaCase(5, (1, 150, 1, 2, 32, 16), by_element=False)))
    kernel = DeltaChunks(typed_launcher)
    out, state = kernel.run(whole)
    parts, before = [], whole.state
    for first, end in pairwise([0, 1, 50, 137, 150]):
        names = ("queries", "keys", "values", "times", "betas")
        part = replace(whole, state=before, **{name: getattr(whole, name)[:, first:end] for name in names})
        read, before = kernel.run(part)
        parts.append(read)
    assert distance(mx.concatenate(parts, axis=1), out) < ROUNDING[mx.float32]
    assert distance(before, state) < ROUNDING[mx.float32]


def test_equal_keys_that_are_never_forgotten_do_not_blow_up() -> None:
    case = DeltaCase(1, (1, 128, 1, 1, 32, 16), by_element=False, repeats_keys=True)
    case.betas[:], case.log_decays[:] = 1, -1e-6
    rounded(case)
    found = DeltaChunks(typed_launcher).run(call_of(case))
    for array, right in zip(found, case.loop(), strict=True):
        assert distance(array, right) < ROUNDING[mx.float32]


@pytest.mark.parametrize("lower_bound", [None, -5.0])
def test_gates_are_those_of_mlx_lm(lower_bound: float | None) -> None:
    """In half precision, rounded as mlx-lm rounds them, also with a bound and with betas of up to 2."""
    drawn = [mx.random.normal((1, 20, *shape), key=mx.random.key(i)) for i, shape in enumerate(GATED)]
    queries, keys, values, times, betas = (array.astype(mx.bfloat16) for array in drawn)
    queries, keys = queries * 32**-0.5, keys * 32**-0.5
    rates, bias, state = (
        mx.array([0.5, -1.0]),
        mx.array([0.3, 1.0]).astype(mx.bfloat16),
        mx.ones((1, 2, 16, 32)),
    )
    call = DeltaCall(queries, keys, values, times, betas, rates, bias, state, lower_bound, 2.0)
    update: Any = gated_delta.gated_delta_update
    options = {"lower_bound": lower_bound, "allow_neg_eigval": True}
    right = update(queries, keys, values, times, betas, rates, bias, state, **options)
    for array, expected in zip(DeltaChunks(typed_launcher).run(call), right, strict=True):
        assert distance(array.astype(mx.float32), expected.astype(mx.float32)) < ROUNDING[mx.bfloat16]


def test_threads_meet_in_shared_memory_at_barriers_only() -> None:
    launcher = TypedLauncher(watched=True)
    call = call_of(rounded(DeltaCase(2, (1, 140, 1, 2, 32, 40), by_element=False)))
    DeltaChunks(launcher).run(call)
    assert launcher.races == 0


@pytest.mark.parametrize(
    ("kernel", "number"),
    sampled(
        [*product(["delta_prepare"], range(6)), *product(["delta_scan"], range(3))],
        kept=[("delta_prepare", 1), ("delta_scan", 2)],
    ),
)
def test_a_barrier_that_is_missing_is_noticed(
    monkeypatch: pytest.MonkeyPatch, kernel: str, number: int
) -> None:
    leave_out_barrier(monkeypatch, kernel, number, {"delta_prepare": 6, "delta_scan": 3}[kernel])
    launcher = TypedLauncher(watched=True)
    DeltaChunks(launcher).run(call_of(rounded(DeltaCase(2, (1, 140, 1, 1, 32, 16), by_element=False))))
    assert launcher.races > 0


def test_kernels_that_compute_wrongly_are_not_used(caplog: pytest.LogCaptureFixture) -> None:
    def launcher(kernel: Kernel, scale: float, workspace_bytes: int) -> Any:
        def run(output_shapes: Any, output_dtypes: Any, **_: Any) -> list[mx.array]:
            return [mx.ones(shape, dtype) for shape, dtype in zip(output_shapes, output_dtypes, strict=True)]

        return run

    assert usable_chunks(launcher) is None
    assert "compute wrongly" in caplog.text


def test_calls_that_the_kernels_are_not_made_for_are_left_to_mlx() -> None:
    def call(by_element: bool = False, dims: tuple[int, int] = (32, 16)) -> DeltaCall:
        return call_of(rounded(DeltaCase(1, (1, 4, 2, 2, *dims), by_element)))

    kernel = DeltaChunks(typed_launcher)
    assert kernel.serves(call())
    others = [call(by_element=True), *(call(dims=dims) for dims in [(40, 16), (32, 12), (512, 16)])]
    others.append(replace(call(), state=mx.zeros((1, 2, 16, 32), mx.bfloat16)))
    assert not any(map(kernel.serves, others))


def test_more_tokens_than_one_a_row_take_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        def serves(self, call: DeltaCall) -> bool:
            return True

        def run(self, call: DeltaCall) -> tuple[mx.array, mx.array]:
            return call.values, call.state + 1

    fake: Any = Fake()
    form = array_delta_form(None, fake, lambda *_, **__: "theirs")
    arrays = [mx.ones((2, 3, 2, 32))] * 3 + [mx.ones((2, 3, 2))] * 2 + [mx.ones((2,))] * 2
    assert distance(form(*arrays)[1], mx.ones((2, 2, 32, 32))) == 0
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    assert form(*arrays) == "theirs"
