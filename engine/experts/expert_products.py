"""The experts' matrix products for few tokens in a kernel, for CUDA.

MLX reads an expert's weights there once for each token that chose it, up to 64 pairs of token and expert.
With more it sorts them and takes a grouped product made for hundreds of tokens an expert.
"""

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from ..attention.kernels.layer_kernels import Launch
from ..attention.kernels.source import THREADS, Constants, Kernel

EXPERTS = Kernel("experts", ("inputs", "weights", "lower_weights", "experts"), ("outputs",))

DTYPES = (mx.bfloat16, mx.float16)
"""Types of weights that CUDA's matrix units multiply without loss."""

STEP = 32
"""Elements of a row of weights that four threads load at once; rows have a multiple of them."""

ROWS = 16
"""Rows of a matrix product's left matrix; experts have a multiple of as many outputs."""

MAX_PAIRS = 512
"""Most pairs of token and expert: each thread group looks through all of them."""


class Tiling(NamedTuple):
    """How thread groups divide a product."""

    tiles: int = 1  # of 16 rows of weights, for each warp
    steps: int = 4  # loads of a thread from each row before it multiplies


TILING = Tiling()


class ExpertProducts:
    """Launches the kernel."""

    def __init__(self, launcher: Callable[[Kernel, float], Launch], tiling: Tiling = TILING) -> None:
        """launcher: declares a kernel to MLX, as PagedKernels does."""
        self._launch = launcher(EXPERTS, 1.0)
        self._tiling = tiling

    def gated(self, inputs: mx.array, gate: mx.array, up: mx.array, experts: mx.array) -> mx.array:
        """Return silu(inputs * gate) * (inputs * up) for each pair; see `multiply`."""
        return self._run([inputs, gate, up, experts], is_gated=True)

    def multiply(self, inputs: mx.array, weights: mx.array, experts: mx.array) -> mx.array:
        """Return each pair's input times its expert's weights, (pairs, outputs).

        inputs: (rows, size), a row for as many pairs that follow one another as there are pairs for a row.
        weights: (experts, outputs, size), of the inputs' type, see `serves`. experts: (pairs,), integers.
        """
        return self._run([inputs, weights, weights, experts], is_gated=False)

    def _run(self, arrays: list[mx.array], is_gated: bool) -> mx.array:
        inputs, weights, _, experts = arrays
        _, num_outputs, size = weights.shape
        constants = product_constants(size, num_outputs, is_gated, self._tiling)
        group_outputs = constants["TILES"] * (ROWS // 2 if is_gated else ROWS)
        return self._launch(
            inputs=arrays,
            template=[("T", inputs.dtype), *constants.items()],
            grid=(THREADS * (num_outputs // group_outputs), len(experts), 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(len(experts), num_outputs)],
            output_dtypes=[inputs.dtype],
        )[0]


def product_constants(size: int, num_outputs: int, is_gated: bool, tiling: Tiling) -> Constants:
    """Return the kernel's compile-time constants. They do not depend on the number of pairs."""
    rows = 2 * num_outputs if is_gated else num_outputs
    tiles = next(n for n in (tiling.tiles, 1) if rows // ROWS % n == 0)
    steps = min(tiling.steps, -(-size // (STEP * THREADS // 32)))
    return {
        "INPUTS": size,
        "OUTPUTS": num_outputs,
        "GATED": int(is_gated),
        "TILES": tiles,
        "STEPS": steps,
    }


def serves(weights: mx.array) -> bool:
    """Whether the kernel multiplies by such weights of experts, (experts, outputs, size)."""
    _, num_outputs, size = weights.shape
    return weights.dtype in DTYPES and size % STEP == 0 and num_outputs % ROWS == 0
