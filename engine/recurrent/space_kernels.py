"""The state spaces of Mamba 2 in kernels, for CUDA: mlx-lm has one for Metal only, for one token a row.

One kernel serves a token of each row, two serve prompts in chunks of 64 tokens: the first computes all that
needs no state, for all chunks at once, the second takes the state from chunk to chunk. mlx-lm's operations
write matrices of 256 x 256 numbers for each head instead. Source of the idea of chunks: Dao and Gu 2024,
"Transformers are SSMs" (structured state space duality).
"""

import logging
from dataclasses import replace

import mlx.core as mx
import numpy as np
from mlx_lm.models.ssm import ssm_attn

from ...cache.kv import MIN_KERNEL_ELEMENTS
from ..attention.kernels.layer_kernels import DTYPES, Launcher
from ..attention.kernels.source import THREADS, Kernel
from .delta_chunks import MAX_WORKSPACE, TILE, key_pitch
from .delta_rule import CHUNK, LOWEST_LOG_DECAY
from .delta_step import step_constants
from .space_call import SpaceCall

logger = logging.getLogger(__name__)

SSM_STEP = Kernel(
    "ssm_step",
    ("hidden", "writes", "reads", "times", "log_rates", "time_biases", "skips", "numbers", "state"),
    ("ssm_out", "next_state"),
    files=("ssm_times", "ssm_step"),
)
SSM_PREPARE = Kernel(
    "ssm_prepare",
    ("writes", "reads", "times", "log_rates", "time_biases", "numbers"),
    ("pairs", "factors"),
    files=("chunks", "ssm_times", "ssm_prepare"),
)
SSM_SCAN = Kernel(
    "ssm_scan",
    ("hidden", "writes", "reads", "skips", "pairs", "factors", "state"),
    ("ssm_out", "next_state"),
    files=("chunks", "scan_state", "ssm_scan"),
)

MAX_GRID_Y = 65_535
"""CUDA's bound of a grid's second axis, which is that of rows and their heads."""

Outputs = tuple[mx.array, mx.array]


class SpaceKernels:
    """Launches the kernels."""

    def __init__(self, launcher: Launcher, tile: int = TILE) -> None:
        """launcher: declares a kernel to MLX, as PagedKernels does. tile: lines of a state, see TILE."""
        self._launcher, self._tile = launcher, tile

    def serves(self, call: SpaceCall) -> bool:
        """Whether the kernels compute such a call: heads of whole pieces, room for them, and not too many."""
        state_dim, head_dim = call.writes.shape[3], call.hidden.shape[3]
        has_types = call.hidden.dtype in DTYPES and call.state.dtype == mx.float32
        has_heads = has_types and call.hidden.shape[2] % call.writes.shape[2] == 0
        has_pieces = has_heads and state_dim % 32 == 0 and head_dim % 8 == 0
        is_in_grid = call.hidden.shape[0] * call.hidden.shape[2] <= MAX_GRID_Y
        return has_pieces and is_in_grid and self._scan_bytes(call) <= MAX_WORKSPACE

    def run(self, call: SpaceCall) -> Outputs:
        """Do what mlx-lm's `ssm_update` does."""
        dtype = call.hidden.dtype
        call = replace(call, writes=call.writes.astype(dtype), reads=call.reads.astype(dtype))
        out, state = self.step(call) if call.num_tokens == 1 else self.scan(call, *self.prepare(call))
        return out.astype(mx.result_type(dtype, call.skips.dtype)), state

    def step(self, call: SpaceCall) -> Outputs:
        """Serve one token a row."""
        num_rows, num_heads, head_dim, state_dim = call.state.shape
        constants = step_constants(state_dim, head_dim, by_element=False)
        del constants["BY_ELEMENT"]
        lines = THREADS // constants["LANES"] * constants["LINES"]
        tokens = [array[:, 0] for array in (call.hidden, call.writes, call.reads, call.times)]
        out, after = self._launcher(SSM_STEP, 0.0)(
            inputs=[*tokens, call.log_rates, call.bias, call.skips, _numbers(call), call.state],
            template=[("T", call.hidden.dtype), *(constants | _rounding(call)).items()],
            grid=(THREADS * -(-head_dim // lines), num_rows * num_heads, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(num_rows, num_heads, head_dim), call.state.shape],
            output_dtypes=[call.hidden.dtype, mx.float32],
        )
        return out[:, None], after

    def prepare(self, call: SpaceCall) -> Outputs:
        """Return the chunks' pairs and factors, as ssm_prepare.h describes them."""
        num_rows, num_tokens, num_heads, _ = call.hidden.shape
        num_chunks = -(-num_tokens // CHUNK)
        constants = self._constants(call) | _rounding(call) | {"LARGEST_DECAY": int(-LOWEST_LOG_DECAY)}
        outer = (num_rows * num_heads, num_chunks)
        pairs, factors = self._launcher(SSM_PREPARE, 0.0, 2 * self._token_bytes(call))(
            inputs=[call.writes, call.reads, call.times, call.log_rates, call.bias, _numbers(call)],
            template=[("T", call.hidden.dtype), *constants.items()],
            grid=(THREADS * num_chunks, num_rows * num_heads, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(*outer, CHUNK, CHUNK), (*outer, 3, CHUNK)],
            output_dtypes=[mx.float32] * 2,
        )
        return pairs, factors

    def scan(self, call: SpaceCall, pairs: mx.array, factors: mx.array) -> Outputs:
        """Return the layer's output and the new state. pairs, factors: of the same call, see `prepare`."""
        num_rows, _, num_heads, head_dim = call.hidden.shape
        constants = self._constants(call) | {"VALUE_DIM": head_dim, "TILE": self._tile}
        out, after = self._launcher(SSM_SCAN, 0.0, self._scan_bytes(call))(
            inputs=[call.hidden, call.writes, call.reads, call.skips, pairs, factors, call.state],
            template=[("T", call.hidden.dtype), *constants.items()],
            grid=(THREADS * -(-head_dim // self._tile), num_rows * num_heads, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[call.hidden.shape, call.state.shape],
            output_dtypes=[call.hidden.dtype, mx.float32],
        )
        return out, after

    def _constants(self, call: SpaceCall) -> dict[str, int]:
        """Return the constants of both kernels of prompts."""
        state_dim = call.writes.shape[3]
        return {"CHUNK": CHUNK, "KEY_DIM": state_dim, "KEY_PITCH": key_pitch(state_dim, call.hidden.dtype)}

    def _token_bytes(self, call: SpaceCall) -> int:
        """Bytes of a chunk's writes, or reads, in shared memory."""
        return CHUNK * self._constants(call)["KEY_PITCH"] * call.hidden.dtype.size

    def _scan_bytes(self, call: SpaceCall) -> int:
        """Bytes of shared memory of the second kernel: state, pairs, updates, factors; then tokens."""
        state = self._tile * (call.writes.shape[3] + 8)
        floats = state + CHUNK * (CHUNK + 16) + self._tile * (CHUNK + 8) + 6 * CHUNK
        return 4 * floats + 3 * self._token_bytes(call)


def _numbers(call: SpaceCall) -> mx.array:
    """Return the limits of the times as the kernels read them."""
    return mx.array([*call.limits] + [0.0] * (MIN_KERNEL_ELEMENTS - 2))


def _rounding(call: SpaceCall) -> dict[str, int]:
    """Return whether the rates are rounded to the type of the tokens, as mlx-lm's are."""
    return {"ROUND_RATES": int(call.log_rates.dtype == call.hidden.dtype)}


def usable_space_kernels(launcher: Launcher) -> SpaceKernels | None:
    """Return the kernels if they compute what mlx-lm's operations compute, on this device; warn if not."""
    try:
        kernels = SpaceKernels(launcher)
        if max(_error(kernels, num_tokens) for num_tokens in (1, 150)) < 2e-2:  # half precision
            return kernels
        logger.warning("the kernels of state spaces compute wrongly here and are not used")
    except Exception as exception:  # all that a compiler or driver raises
        logger.warning("the kernels of state spaces cannot be used here: %s", exception)
    return None


def _error(kernels: SpaceKernels, num_tokens: int) -> float:
    """Return the largest distance between the kernels and mlx-lm's operations on random rows."""
    shapes: list[tuple[int, ...]] = [
        (2, num_tokens, 16, 64),
        (2, num_tokens, 4, 128),
        (2, num_tokens, 4, 128),
    ]
    shapes += [(2, num_tokens, 16), (16,), (16,), (16,)]
    drawn = [mx.random.normal(shape, key=mx.random.key(i)) for i, shape in enumerate(shapes)]
    hidden, writes, reads, times, log_rates, bias, skips = (array.astype(mx.bfloat16) for array in drawn)
    state = mx.random.normal((2, 16, 64, 128), key=mx.random.key(9))
    call = SpaceCall(hidden, log_rates, writes * 128**-0.5, reads, skips, times, bias, state, (0.001, 100.0))
    pairs = zip(kernels.run(call), _by_operations(call), strict=True)
    distances = [float(mx.abs(a - b).max() / mx.abs(b).max()) for a, b in pairs]
    return float(np.max(distances))  # NaN if any is NaN, which `max` would lose


def _by_operations(call: SpaceCall) -> Outputs:
    """Return what mlx-lm's operations make of the same numbers in float32."""
    hidden, log_rates, writes, reads, skips, times, bias = (
        array.astype(mx.float32)
        for array in (
            *(call.hidden, call.log_rates, call.writes, call.reads),
            *(call.skips, call.times, call.bias),
        )
    )
    out, state = ssm_attn(hidden, log_rates, writes, reads, skips, times, bias, call.state, call.limits)
    return out, state
