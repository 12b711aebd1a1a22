"""Which experts a token gets, and the sum of what they return, each in one kernel, for CUDA.

mlx-lm's blocks take some ten operations for both, of which each costs host and device some microseconds.
"""

import struct
from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from ...cache.kv import MIN_KERNEL_ELEMENTS
from ..attention.kernels.layer_kernels import Launch
from ..attention.kernels.source import THREADS, Kernel

CHOOSE = Kernel(
    "choose_experts", ("logits", "corrections", "rows", "gate_weight"), ("chosen", "shares", "gate_logit")
)
SUM = Kernel("sum_experts", ("expert_outs", "shares", "shared_out", "shared_logit"), ("summed",))

MAX_EXPERTS = 512
"""Most experts of a block: a thread compares each of its own with all of them."""


class Choice(NamedTuple):
    """How a block chooses experts."""

    top: int  # experts of a token
    normalises: bool  # whether a token's shares sum to 1
    corrections: mx.array | None = None  # (experts,), added to sigmoids for the choice; None: softmax
    factor: float = 1.0  # of the shares, after sigmoids


class SharedExpert(NamedTuple):
    """What the expert returns that serves every token, each array of as many rows."""

    out: mx.array
    logit: mx.array | None = None  # of the gate of `out`, one a row; None: no gate


class Gate(NamedTuple):
    """The gate of the shared expert, which is a product of its own."""

    rows: mx.array  # the block's inputs, (rows, size), of a size that 8 divides
    weight: mx.array  # (1, size)


class Chosen(NamedTuple):
    """The experts of each row."""

    experts: mx.array  # (rows, top), the highest score first
    shares: mx.array  # in the row's output, (rows, top), float32
    gate_logit: mx.array  # of the shared expert, (rows,); no numbers where no gate is given


class ExpertChoice:
    """Launches the kernels."""

    def __init__(self, launcher: Callable[[Kernel, float], Launch]) -> None:
        """launcher: declares a kernel to MLX, as PagedKernels does."""
        self._choose = launcher(CHOOSE, 1.0)
        self._sum = launcher(SUM, 1.0)
        self._none = mx.zeros((MIN_KERNEL_ELEMENTS,))

    def choose(self, logits: mx.array, choice: Choice, gate: Gate | None = None) -> Chosen:
        """Return each row's experts.

        logits: (rows, experts), at most MAX_EXPERTS. gate: of the logits' type; multiplied by the way.
        """
        num_rows, num_experts = logits.shape
        is_sigmoid = choice.corrections is not None
        constants = {
            "EXPERTS": num_experts,
            "TOP": choice.top,
            "SIGMOID": int(is_sigmoid),
            "NORMALISES": int(choice.normalises),
            "FACTOR": struct.unpack("<i", struct.pack("<f", choice.factor))[0],
            "INPUTS": 0 if gate is None else gate.weight.shape[1],
        }
        shape = (num_rows, choice.top)
        corrections = self._none if choice.corrections is None else choice.corrections
        chosen = self._choose(
            inputs=[logits, corrections, *(gate or (logits, logits))],  # what is not given is not read
            template=[("T", logits.dtype), *constants.items()],
            grid=(THREADS, num_rows, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[shape, shape, (num_rows,)],
            output_dtypes=[mx.uint32, mx.float32, logits.dtype],
        )
        return Chosen(*chosen)

    def sum(
        self, outs: mx.array, shares: mx.array, shared: SharedExpert | None, has_rounded_products: bool
    ) -> mx.array:
        """Return each row's sum of its experts' outputs, by their shares, and of the shared one's.

        Returns (rows, size), of an even size. outs: (rows * top, size). shares: (rows, top), float32.
        has_rounded_products: whether each product is rounded to the outputs' type.
        """
        (num_rows, top), size = shares.shape, outs.shape[1]
        shared_out, logit = (None, None) if shared is None else shared
        constants = {
            "SIZE": size,
            "TOP": top,
            "ROUNDS": int(has_rounded_products),
            "HAS_SHARED": int(shared_out is not None),
            "IS_GATED": int(logit is not None),
        }
        none = outs  # never read
        return self._sum(
            inputs=[
                outs,
                shares,
                none if shared_out is None else shared_out,
                none if logit is None else logit,
            ],
            template=[("T", outs.dtype), *constants.items()],
            grid=(THREADS * -(-size // (2 * THREADS)), num_rows, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(num_rows, size)],
            output_dtypes=[outs.dtype],
        )[0]
