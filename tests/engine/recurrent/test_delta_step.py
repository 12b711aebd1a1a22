"""The kernel of the gated delta rule, its text run in C++, against mlx-lm's own step."""

from itertools import product
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from pensieve.engine.attention.kernels.source import Kernel
from pensieve.engine.recurrent.array_forms import array_delta_form
from pensieve.engine.recurrent.delta_rule import DeltaInputs
from pensieve.engine.recurrent.delta_step import DeltaStep, usable_step

from ...budget import sampled
from ..attention.compiled import needs_compiler
from ..attention.cpp_kernels import CppKernels
from ..attention.typed_kernels import typed_launcher
from .token_loops import DeltaCase, distance

pytestmark = needs_compiler

ROUNDING = {mx.float32: 2e-6, mx.bfloat16: 1e-2}


@pytest.mark.parametrize(
    ("dims", "by_element", "dtype"),
    sampled(
        product([(128, 128), (64, 40), (24, 16), (256, 128), (96, 64)], [False, True], ROUNDING),
        kept=[((128, 128), False, mx.bfloat16), ((64, 40), True, mx.float32)],
    ),
)
def test_rows_read_and_correct_their_states(dims: tuple[int, int], by_element: bool, dtype: mx.Dtype) -> None:
    case = DeltaCase(1, (3, 1, 2, 2 if by_element else 6, *dims), by_element)
    tokens = [mx.array(array).astype(dtype) for array in (case.queries, case.keys, case.values)]
    case.queries, case.keys, case.values = (np.array(array.astype(mx.float32)) for array in tokens)
    queries, keys, values = tokens
    inputs = DeltaInputs(queries, keys, values, mx.array(case.log_decays), mx.array(case.betas))
    found = DeltaStep(typed_launcher).run(inputs, mx.array(case.state))
    (out, state), (right_out, right_state) = found, case.loop()
    assert distance(out.astype(mx.float32), right_out) < ROUNDING[dtype]
    assert distance(state, right_state) < 2e-6, "states stay in float32"


def test_a_kernel_that_computes_wrongly_is_not_used() -> None:
    def launcher(kernel: Kernel, scale: float) -> Any:
        right = CppKernels().launcher(kernel, scale)

        def run(**arguments: Any) -> list[mx.array]:
            out, state = right(**arguments)
            return [out, state * 1.05]

        return run

    assert usable_step(launcher) is None


def test_one_token_a_row_takes_the_kernel_where_mlx_lm_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        def run(self, inputs: DeltaInputs, state: mx.array) -> tuple[mx.array, mx.array]:
            return inputs.values, state + 1

    fake: Any = Fake()
    form = array_delta_form(fake, None, lambda *_, **__: "theirs")
    arrays = [mx.ones((2, 1, 2, 32))] * 3 + [mx.ones((2, 1, 2))] * 2 + [mx.ones((2,))] * 2
    assert distance(form(*arrays)[1], mx.ones((2, 2, 32, 32))) == 0
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    assert form(*arrays) == "theirs"
