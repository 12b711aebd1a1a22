"""mlx-lm's recurrences as this package computes them on GPUs; each takes the place of one of theirs."""

import mlx.core as mx

from ..pass_functions import Function
from .delta_call import DeltaCall, delta_form
from .delta_chunks import DeltaChunks
from .delta_rule import run as run_delta
from .delta_step import DeltaStep
from .space_call import SpaceCall, space_form
from .space_kernels import SpaceKernels

MIN_TOKENS = 8
"""Tokens of a slice from which chunks are used: mlx-lm queues some ten operations for each token."""


def array_delta_form(step: DeltaStep | None, chunks: DeltaChunks | None, theirs: Function) -> Function:
    """Return the form of `gated_delta_update` where mlx-lm has no kernel: on CUDA, on Metal for odd heads.

    step: the kernel for one token a row; chunks: the kernels for more; None where there are none that work.
    """

    def run(call: DeltaCall) -> tuple[mx.array, mx.array] | None:
        has_kernel = mx.metal.is_available() and call.keys.shape[-1] % 32 == 0
        if step is not None and call.num_tokens == 1 and not has_kernel:
            return step.run(call.inputs(), call.state)
        if chunks is not None and call.num_tokens > 1 and not has_kernel and chunks.serves(call):
            return chunks.run(call)
        if has_kernel or call.num_tokens < MIN_TOKENS:
            return None
        return run_delta(call.inputs(), call.state)

    return delta_form(run, theirs)


def array_space_form(kernels: SpaceKernels, theirs: Function) -> Function:
    """Return the form of `ssm_update` on CUDA, where mlx-lm has no kernel."""

    def run(call: SpaceCall) -> tuple[mx.array, mx.array] | None:
        return kernels.run(call) if kernels.serves(call) else None

    return space_form(run, theirs)
