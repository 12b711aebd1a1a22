"""The kernel of the experts' products, its text run in C++, against products in MLX and mlx-lm's layer."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.switch_layers import SwitchGLU

from pensieve.engine.experts.expert_products import EXPERTS, ExpertProducts, Tiling, product_constants

from ...budget import sampled
from ..attention.compiled import compile_kernel, launch, needs_compiler, races
from ..attention.missing_barrier import leave_out_barrier
from ..attention.typed_kernels import to_numpy, typed_launcher
from ..recurrent.token_loops import distance

pytestmark = needs_compiler

CASES = {
    # rows, experts of each row, experts, size of a row, outputs of gate and up
    "some share an expert": (5, 2, 4, 64, 32),
    "one row": (1, 3, 8, 96, 64),
    "a row longer than a stride by less than one": (3, 2, 4, 544, 96),
    "more than a thread group takes": (24, 2, 3, 64, 32),
    "more than a warp looks at": (40, 1, 5, 32, 16),
}


class Case:
    def __init__(self, name: str, dtype: mx.Dtype, tiling: Tiling) -> None:
        rows, per_row, num_experts, size, outputs = CASES[name]
        mx.random.seed(len(name))
        self.layer = SwitchGLU(size, outputs, num_experts)
        self.layer.set_dtype(dtype)
        self.x = mx.random.normal((rows, size)).astype(dtype)
        rng = np.random.default_rng(rows)
        drawn = [rng.permutation(num_experts)[:per_row] for _ in range(rows)]
        self.indices = mx.array(np.stack(drawn).astype(np.uint32))
        self.products = ExpertProducts(typed_launcher, tiling)

    def weights(self) -> list[mx.array]:
        return [self.layer[name].weight for name in ("gate_proj", "up_proj", "down_proj")]

    def run(self, rows: slice = slice(None)) -> mx.array:
        gate, up, down = self.weights()
        experts = self.indices[rows].reshape(-1)
        hidden = self.products.gated(self.x[rows], gate, up, experts)
        return self.products.multiply(hidden, down, experts).reshape(-1, self.indices.shape[1], down.shape[1])

    def expected(self) -> mx.array:
        """What mlx-lm's layer computes, with its rounding; MLX's CPU device gathers float32 only."""
        rows = mx.repeat(self.x, self.indices.shape[1], axis=0)[:, None]
        gate, up, down = (weight[self.indices.reshape(-1)].swapaxes(1, 2) for weight in self.weights())
        out: mx.array = (nn.silu(rows @ gate) * (rows @ up)) @ down
        return out.reshape(*self.indices.shape, -1)


@pytest.mark.parametrize(
    ("name", "dtype", "tiling"),
    sampled(
        [
            ("some share an expert", mx.float32, Tiling(2, 2)),
            ("one row", mx.bfloat16, Tiling()),
            ("a row longer than a stride by less than one", mx.float16, Tiling(2, 2)),
            ("more than a thread group takes", mx.bfloat16, Tiling()),
            ("more than a warp looks at", mx.float32, Tiling()),
        ],
        kept=[
            ("some share an expert", mx.float32, Tiling(2, 2)),
            ("more than a thread group takes", mx.bfloat16, Tiling()),
        ],
    ),
)
def test_pairs_get_their_own_experts_output(name: str, dtype: mx.Dtype, tiling: Tiling) -> None:
    case = Case(name, dtype, tiling)
    found = case.run()
    error = distance(found.astype(mx.float32), case.expected().astype(mx.float32))
    assert error < {mx.float32: 2e-6, mx.bfloat16: 1e-2, mx.float16: 2e-3}[dtype]
    for row in (0, len(case.x) - 1):
        alone = case.run(slice(row, row + 1))
        assert mx.array_equal(alone[0], found[row]), "no pair's result depends on the others, bit by bit"


def test_the_layer_of_mlx_lm_computes_the_same() -> None:
    case = Case("some share an expert", mx.float32, Tiling())
    assert distance(case.run(), case.layer(case.x, case.indices)) < 2e-6


@pytest.mark.parametrize("missing", [None, 0, 1])
def test_threads_meet_in_shared_memory_at_barriers_only(
    missing: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_barrier(monkeypatch, "experts", missing, 2)
    case = Case("more than a thread group takes", mx.float32, Tiling(2, 2))
    gate, up, _ = case.weights()
    library = compile_kernel(EXPERTS, product_constants(64, 32, True, Tiling(2, 2)), watched=True)
    before, out = races(library), np.zeros((48, 32), np.float32)
    inputs = [to_numpy(array) for array in (case.x, gate, up, case.indices.reshape(-1))]
    launch(library, EXPERTS, inputs, [out], (1, 48))
    assert (races(library) > before) == (missing is not None)
