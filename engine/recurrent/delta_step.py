"""The gated delta rule for one token a row in one kernel, for CUDA: mlx-lm has one for Metal only."""

import logging
from collections.abc import Callable

import mlx.core as mx

from ..attention.kernels.layer_kernels import Launch
from ..attention.kernels.source import THREADS, Kernel
from .delta_rule import DeltaInputs, step

logger = logging.getLogger(__name__)

DELTA_STEP = Kernel(
    "delta_step",
    ("queries", "keys", "values", "decays", "betas", "state"),
    ("delta_out", "next_state"),
)

LINES = 4
"""Lines of the state that a subgroup of threads holds."""


class DeltaStep:
    """Launches the kernel."""

    def __init__(self, launcher: Callable[[Kernel, float], Launch]) -> None:
        """launcher: declares a kernel to MLX, as PagedKernels does."""
        self._launch = launcher(DELTA_STEP, 0.0)

    def run(self, inputs: DeltaInputs, state: mx.array) -> tuple[mx.array, mx.array]:
        """Do what `delta_rule.step` does, for a state in float32; the result has the queries' type."""
        assert inputs.betas is not None
        num_rows, num_heads, value_dim, key_dim = state.shape
        decays = mx.exp(inputs.log_decays.astype(mx.float32))
        constants = step_constants(key_dim, value_dim, decays.ndim == 4)
        lines = THREADS // constants["LANES"] * LINES
        out, after = self._launch(
            inputs=[
                inputs.queries[:, 0],
                inputs.keys[:, 0].astype(inputs.queries.dtype),
                inputs.values[:, 0].astype(inputs.queries.dtype),
                decays[:, 0],
                inputs.betas[:, 0].astype(mx.float32),
                state,
            ],
            template=[("T", inputs.queries.dtype), *constants.items()],
            grid=(THREADS * -(-value_dim // lines), num_rows * num_heads, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(num_rows, num_heads, value_dim), state.shape],
            output_dtypes=[inputs.queries.dtype, mx.float32],
        )
        return out[:, None], after


def step_constants(key_dim: int, value_dim: int, by_element: bool) -> dict[str, int]:
    """Return the kernel's compile-time constants."""
    vector = next(n for n in (4, 2, 1) if key_dim % n == 0)
    lanes = next(n for n in (32, 16, 8, 4, 2, 1) if key_dim % (n * vector) == 0)
    return {
        "KEY_DIM": key_dim,
        "VALUE_DIM": value_dim,
        "BY_ELEMENT": int(by_element),
        "LANES": lanes,
        "WIDTH": key_dim // lanes,
        "VECTOR": vector,
        "LINES": LINES,
    }


def usable_step(launcher: Callable[[Kernel, float], Launch]) -> DeltaStep | None:
    """Return the kernel if it computes what plain MLX computes, on this device; warn if not."""
    try:
        kernel = DeltaStep(launcher)
        if max(_error(kernel, by_element) for by_element in (False, True)) < 2e-2:  # rounds to half precision
            return kernel
        logger.warning("the kernel of the gated delta rule computes wrongly here and is not used")
    except Exception as exception:  # all that a compiler or driver raises
        logger.warning("the kernel of the gated delta rule cannot be used here: %s", exception)
    return None


def _error(kernel: DeltaStep, by_element: bool) -> float:
    """Return the largest distance between the kernel and plain MLX on random rows."""
    shapes = [(3, 1, 2, 128), (3, 1, 2, 128), (3, 1, 4, 128), (3, 1, 4, 128) if by_element else (3, 1, 4)]
    drawn = [mx.random.normal(shape, key=mx.random.key(i)) for i, shape in enumerate([*shapes, (3, 1, 4)])]
    queries, keys, values = (array.astype(mx.bfloat16) * 128**-0.5 for array in drawn[:3])
    inputs = DeltaInputs(queries, keys, values, -mx.abs(drawn[3]), mx.sigmoid(drawn[4]))
    state = mx.random.normal((3, 4, 128, 128), key=mx.random.key(9))
    pairs = zip(kernel.run(inputs, state), step(inputs, state), strict=True)
    return max(float(mx.abs(a - b).max() / mx.abs(b).max()) for a, b in pairs)
