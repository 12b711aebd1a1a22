"""The experts' matrix products for many tokens in a kernel, for CUDA.

MLX sorts pairs of token and expert for a grouped product whose tiles hold 256 of them, loaded two bytes at a
time. Of 2,048 tokens that choose 8 of 256 experts, an expert gets 64.
"""

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from ..attention.kernels.layer_kernels import Launch
from ..attention.kernels.source import THREADS, Kernel

GROUP_PAIRS = Kernel("group_pairs", ("experts",), ("order", "pair_tiles"))
EXPERT_TILES = Kernel(
    "expert_tiles", ("inputs", "weights", "lower_weights", "order", "pair_tiles"), ("outputs",)
)

PAIRS = 64
"""Pairs of a tile."""

ROWS = 128
"""Rows of weights of a thread group."""

DEPTH = 64
"""Elements of a row that lie in shared memory at once; rows have a multiple of them."""

WORKSPACE_BYTES = 2 * (ROWS + PAIRS) * (DEPTH + 8) * 2
"""Shared memory of a thread group: two buffers of 2 bytes an element, rows padded against conflicts."""


class PairGroups(NamedTuple):
    """Pairs sorted by expert; group_pairs.h describes both arrays."""

    order: mx.array
    tiles: mx.array


class GroupedProducts:
    """Launches the kernels. Arguments are those of ExpertProducts, with groups in place of experts."""

    def __init__(self, launcher: Callable[..., Launch]) -> None:
        """launcher: declares a kernel to MLX, as PagedKernels does."""
        self._group = launcher(GROUP_PAIRS, 0.0)
        self._multiply = launcher(EXPERT_TILES, 1.0, WORKSPACE_BYTES)

    def group(self, experts: mx.array, num_experts: int) -> PairGroups:
        """Sort pairs by expert. experts: (pairs,), integers."""
        num_pairs = len(experts)
        order, tiles = self._group(
            inputs=[experts],
            template=[("PAIRS", PAIRS)],
            grid=(THREADS, num_experts, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(num_pairs,), (num_pairs // PAIRS + num_experts, 3)],
            output_dtypes=[mx.int32, mx.int32],
        )
        return PairGroups(order, tiles)

    def gated(self, inputs: mx.array, gate: mx.array, up: mx.array, groups: PairGroups) -> mx.array:
        """Return silu(inputs * gate) * (inputs * up), in the order of `groups`."""
        return self._run([inputs, gate, up, *groups], is_gated=True, gathers=True)

    def multiply(self, inputs: mx.array, weights: mx.array, groups: PairGroups) -> mx.array:
        """Return inputs times weights, in the order of `groups`."""
        return self._run([inputs, weights, weights, *groups], is_gated=False, gathers=True)

    def multiply_back(self, inputs: mx.array, weights: mx.array, groups: PairGroups) -> mx.array:
        """Return inputs, which are in the order of `groups`, times weights, in the pairs' own order."""
        return self._run([inputs, weights, weights, *groups], is_gated=False, gathers=False)

    def _run(self, arrays: list[mx.array], is_gated: bool, gathers: bool) -> mx.array:
        inputs, weights, _, order, tiles = arrays
        _, num_outputs, size = weights.shape
        constants = {
            "INPUTS": size,
            "OUTPUTS": num_outputs,
            "GATED": int(is_gated),
            "GATHERS": int(gathers),
            "PAIRS": PAIRS,
        }
        group_outputs = ROWS // 2 if is_gated else ROWS
        return self._multiply(
            inputs=arrays,
            template=[("T", inputs.dtype), *constants.items()],
            grid=(THREADS * -(-num_outputs // group_outputs), len(tiles), 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(len(order), num_outputs)],
            output_dtypes=[inputs.dtype],
        )[0]


def serves_tiles(weights: mx.array) -> bool:
    """Whether the kernel multiplies by such weights, (experts, outputs, size) in half precision."""
    return weights.shape[2] % DEPTH == 0
