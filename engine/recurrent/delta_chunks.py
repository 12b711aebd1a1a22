"""The gated delta rule for prompts in two kernels, for CUDA: mlx-lm has one for Metal only.

The first kernel computes all that needs no state, for all chunks of 64 tokens at once; the second takes the
state from chunk to chunk. `delta_rule.py` does the same in some 300 operations of MLX's. Source of the idea
to invert a chunk's triangle before the state is known: Yang et al. 2024, "Parallelizing Linear Transformers
with the Delta Rule over Sequence Length".
"""

import logging
from dataclasses import replace

import mlx.core as mx
import numpy as np

from ..attention.kernels.layer_kernels import DTYPES, Launcher
from ..attention.kernels.source import THREADS, Kernel
from .delta_call import DeltaCall
from .delta_rule import CHUNK, LOWEST_LOG_DECAY, run

logger = logging.getLogger(__name__)

DELTA_PREPARE = Kernel(
    "delta_prepare",
    ("queries", "keys", "gate_times", "gate_openings", "log_rates", "gate_biases"),
    ("inverses", "pairs", "factors"),
    files=("chunks", "delta_prepare"),
)
DELTA_SCAN = Kernel(
    "delta_scan",
    ("queries", "keys", "values", "inverses", "pairs", "factors", "state"),
    ("delta_out", "next_state"),
    files=("chunks", "scan_state", "delta_scan"),
)

TILE = 16
"""Lines of a head's state that a thread group takes through all chunks; 16 or 32. See docs/decisions.md."""

MAX_WORKSPACE = 227 * 1024
"""Bytes of shared memory that a thread group may have on Hopper."""

Outputs = tuple[mx.array, mx.array]


class DeltaChunks:
    """Launches the kernels."""

    def __init__(self, launcher: Launcher, tile: int = TILE) -> None:
        """launcher: declares a kernel to MLX, as PagedKernels does. tile: see TILE."""
        self._launcher, self._tile = launcher, tile

    def serves(self, call: DeltaCall) -> bool:
        """Whether the kernels compute such a call: one gate a head, heads of whole pieces, room for them."""
        key_dim, value_dim, num_heads = call.keys.shape[3], call.values.shape[3], call.values.shape[2]
        are_served = call.queries.dtype in DTYPES and call.state.dtype == mx.float32
        has_form = are_served and call.times.ndim == 3 and num_heads % call.keys.shape[2] == 0
        has_pieces = has_form and key_dim % 32 == 0 and value_dim % 8 == 0
        return has_pieces and self._scan_bytes(call) <= MAX_WORKSPACE

    def run(self, call: DeltaCall) -> Outputs:
        """Do what `delta_rule.run` does with the call's inputs; the result has the queries' type."""
        dtype = call.queries.dtype
        call = replace(call, keys=call.keys.astype(dtype), values=call.values.astype(dtype))
        return self.scan(call, self.prepare(call))

    def prepare(self, call: DeltaCall) -> list[mx.array]:
        """Return the chunks' inverses, pairs and factors, as delta_prepare.h describes them."""
        num_rows, num_tokens, num_heads, _ = call.values.shape
        dtype, num_chunks = call.queries.dtype, -(-num_tokens // CHUNK)
        is_raw = call.lower_bound is None
        gates = [call.times, call.betas]
        if not is_raw:
            inputs = call.inputs()
            assert inputs.betas is not None
            gates = [inputs.log_decays, inputs.betas]
        constants = {
            "RAW_GATES": int(is_raw),
            "ROUND_TIMES": int(call.times.dtype == dtype == call.bias.dtype),
            "ROUND_BETAS": int(call.betas.dtype == dtype),
            "BETA_SCALE": int(call.beta_scale),
            "LOWER_PITCH": CHUNK + 4,
            "LARGEST_DECAY": int(-LOWEST_LOG_DECAY),
        }
        num_bytes = 4 * CHUNK * (CHUNK + 4) + 2 * self._token_bytes(call)
        launch = self._launcher(DELTA_PREPARE, 0.0, num_bytes)
        outer = (num_rows * num_heads, num_chunks)
        return launch(
            inputs=[call.queries, call.keys, *gates, call.log_rates.reshape(-1), call.bias.reshape(-1)],
            template=[("T", dtype), *(self._constants(call) | constants).items()],
            grid=(THREADS * num_chunks, num_rows * num_heads, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(*outer, CHUNK, CHUNK), (*outer, CHUNK, CHUNK), (*outer, 3, CHUNK)],
            output_dtypes=[mx.float32] * 3,
        )

    def scan(self, call: DeltaCall, prepared: list[mx.array]) -> Outputs:
        """Return what the tokens read and the new state. prepared: of the same call, see `prepare`."""
        num_rows, _, num_heads, value_dim = call.values.shape
        constants = self._constants(call) | {"VALUE_DIM": value_dim, "TILE": self._tile}
        launch = self._launcher(DELTA_SCAN, 0.0, self._scan_bytes(call))
        out, after = launch(
            inputs=[call.queries, call.keys, call.values, *prepared, call.state],
            template=[("T", call.queries.dtype), *constants.items()],
            grid=(THREADS * -(-value_dim // self._tile), num_rows * num_heads, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[call.values.shape, call.state.shape],
            output_dtypes=[call.queries.dtype, mx.float32],
        )
        return out, after

    def _constants(self, call: DeltaCall) -> dict[str, int]:
        """Return the constants of both kernels."""
        key_dim = call.keys.shape[3]
        return {"CHUNK": CHUNK, "KEY_DIM": key_dim, "KEY_PITCH": key_pitch(key_dim, call.queries.dtype)}

    def _token_bytes(self, call: DeltaCall) -> int:
        """Bytes of a chunk's keys, or queries, in shared memory."""
        return CHUNK * key_pitch(call.keys.shape[3], call.queries.dtype) * call.queries.dtype.size

    def _scan_bytes(self, call: DeltaCall) -> int:
        """Bytes of shared memory of the second kernel: state, matrices, lines, factors; then tokens."""
        state = self._tile * (call.keys.shape[3] + 8)
        floats = state + 2 * CHUNK * (CHUNK + 16) + 2 * self._tile * (CHUNK + 8) + 6 * CHUNK
        return 4 * floats + 3 * self._token_bytes(call)


def key_pitch(key_dim: int, dtype: mx.Dtype) -> int:
    """Return a token's elements in shared memory; rows that are read together lie in other banks."""
    return next(n for n in range(key_dim, key_dim + 128) if n * dtype.size % 128 == 16 * dtype.size)


def usable_chunks(launcher: Launcher) -> DeltaChunks | None:
    """Return the kernels if they compute what plain MLX computes, on this device; warn if not."""
    try:
        kernel = DeltaChunks(launcher)
        if error(kernel) < 2e-2:  # half precision, and MLX's own matmuls in TF32
            return kernel
        logger.warning("the kernels of the gated delta rule compute wrongly here and are not used")
    except Exception as exception:  # all that a compiler or driver raises
        logger.warning("the kernels of the gated delta rule cannot be used here: %s", exception)
    return None


def error(kernel: DeltaChunks) -> float:
    """Return the largest distance between the kernels and plain MLX on two whole chunks and a part of one."""
    shapes = [(1, 150, 2, 128), (1, 150, 2, 128), (1, 150, 4, 128), (1, 150, 4), (1, 150, 4), (4,), (4,)]
    drawn = [mx.random.normal(shape, key=mx.random.key(i)) for i, shape in enumerate(shapes)]
    queries, keys, values, times, betas, rates, bias = (array.astype(mx.bfloat16) for array in drawn)
    queries, keys = queries * 128**-0.5, keys * 128**-0.5
    state = mx.random.normal((1, 4, 128, 128), key=mx.random.key(9))
    call = DeltaCall(queries, keys, values, times, betas, rates, bias, state, None, 1.0)
    pairs = zip(kernel.run(call), run(call.inputs(), state), strict=True)
    distances = [float(mx.abs(a - b).max() / mx.abs(b).max()) for a, b in pairs]
    return float(np.max(distances))  # NaN if any is NaN, which `max` would lose
