"""Prompts in whole gated delta layers, as Qwen3-Next and Qwen3.5 have them, in three kernels, for CUDA.

Beside its projections mlx-lm's layer queues some 30 operations for a slice of a prompt, and those of the
rule. Here one kernel computes all that comes before the rule (see `kernels/delta_convolve.h`), and two
compute the rule itself.
"""

from functools import cache, lru_cache
from typing import Any

import mlx.core as mx

from ..attention.kernels.layer_kernels import Launcher
from ..attention.kernels.source import THREADS, Kernel
from .delta_call import DeltaCall
from .delta_chunks import DeltaChunks, Outputs
from .layer_check import usable_layer_kernel
from .layer_step import (
    INTERLEAVED,
    LAYERS,
    VECTOR,
    LayerStep,
    Projected,
    has_kernel_form,
    project,
    step_constants,
)

DELTA_CONVOLVE = Kernel(
    "delta_convolve",
    ("mixed", "write_gates", "times", "conv_state", "conv_weight", "conv_bias", "numbers", "lengths"),
    ("queries", "keys", "values", "token_times", "token_gates", "next_conv"),
)

RUN = 8
"""Tokens that a warp takes one after another."""

MAX_KEPT = 256
"""Arrays of lengths that are kept."""

TRIAL_TOKENS, TRIAL_PADDING = 70, 10
"""Tokens of each row of the check, a chunk of the rule and a part of one, and of padding behind them."""


class LayerPrompt:
    """Launches the kernels in the place of mlx-lm's layers."""

    def __init__(self, launcher: Launcher) -> None:
        """launcher: declares a kernel to MLX, as PagedKernels does."""
        self._convolve = launcher(DELTA_CONVOLVE, 0.0)
        self._chunks, self._step = DeltaChunks(launcher), LayerStep(launcher)
        self._zeros = cache(mx.zeros)
        self._whole = lru_cache(MAX_KEPT)(_whole)

    def run(self, layer: Any, inputs: mx.array, cache: Any) -> mx.array | None:
        """Return what `layer` returns for several tokens a row, and leave the new state in `cache`.

        layer: one of the classes of LAYERS. inputs: (rows, tokens, hidden size), with padding behind the
        tokens of each row where the cache has `lengths`.
        Returns None, and changes nothing, where the kernels are not made for the layer or its state.
        """
        if not has_kernel_form(layer, cache) or layer.head_v_dim % VECTOR:
            return None
        projected = project(layer, inputs)
        conv_state, state = self._states(layer, inputs, cache)
        mixed, dtype = projected.arrays[0], layer.conv1d.weight.dtype
        is_aligned = mixed.shape[-1] % VECTOR == 0 and projected.starts[0] % VECTOR == 0
        if not is_aligned or any(array.dtype != dtype for array in (conv_state, *projected.arrays)):
            return None
        lengths = self._whole(inputs.shape[:2]) if cache.lengths is None else cache.lengths
        queries, keys, values, times, gates, next_conv = self._start(layer, projected, conv_state, lengths)
        call = DeltaCall(queries, keys, values, times, gates, layer.A_log, layer.dt_bias, state, None, 1.0)
        if not self._chunks.serves(call):
            return None
        out, next_state = self._chunks.run(call)
        cache[0], cache[1] = next_conv, next_state
        cache.advance(inputs.shape[1])
        hidden = layer.norm(out, _output_gates(layer, projected))
        result: mx.array = layer.out_proj(hidden.reshape(*inputs.shape[:2], -1))
        return result

    def _states(self, layer: Any, inputs: mx.array, cache: Any) -> Outputs:
        """Return the states before the inputs: those in `cache`, or zeros where these are the first."""
        num_rows, dtype = inputs.shape[0], layer.conv1d.weight.dtype
        conv_shape = (num_rows, layer.conv_kernel_size - 1, layer.conv_dim)
        shape = (num_rows, layer.num_v_heads, layer.head_v_dim, layer.head_k_dim)
        conv_state = self._zeros(conv_shape, dtype) if cache[0] is None else cache[0]
        return conv_state, self._zeros(shape, mx.float32) if cache[1] is None else cache[1]

    def _start(
        self, layer: Any, projected: Projected, conv_state: mx.array, lengths: mx.array
    ) -> list[mx.array]:
        """Return what DELTA_CONVOLVE returns; lazy. lengths: int32, (rows,)."""
        mixed, _, write_gates, times = projected.arrays
        num_rows, num_tokens = mixed.shape[:2]
        key_shape = (num_rows, num_tokens, layer.num_k_heads, layer.head_k_dim)
        gate_shape = (num_rows, num_tokens, layer.num_v_heads)
        dtype, weight = layer.conv1d.weight.dtype, layer.conv1d.weight
        bias = layer.conv1d.get("bias", weight)
        constants = step_constants(layer, projected.starts) | {"RUN": RUN}
        num_units = 2 * layer.num_k_heads + layer.num_v_heads
        return self._convolve(
            inputs=[
                *(mixed, write_gates, times, conv_state, weight, bias),
                *(self._step.numbers_of(layer), lengths),
            ],
            template=[("T", dtype), *constants.items()],
            grid=(THREADS * -(-num_tokens // (THREADS // 32 * RUN)), num_rows * num_units, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[
                *(key_shape, key_shape, (*gate_shape, layer.head_v_dim)),
                *(gate_shape, gate_shape, conv_state.shape),
            ],
            output_dtypes=[dtype] * 6,
        )


def _whole(shape: tuple[int, int]) -> mx.array:
    """Return the lengths of rows without padding. shape: (rows, tokens)."""
    lengths = mx.full(shape[:1], shape[1], mx.int32)
    mx.eval(lengths)  # else a compiled pass would make it each time
    return lengths


def _output_gates(layer: Any, projected: Projected) -> mx.array:
    """Return the gates of what the layer reads, (rows, tokens, value_heads, value_dim)."""
    array, start = projected.arrays[1], projected.starts[1]
    shape = (*array.shape[:2], layer.num_v_heads, layer.head_v_dim)
    kind = type(layer)
    if LAYERS[kind.__module__, kind.__name__] == INTERLEAVED:
        size = layer.value_dim // layer.num_k_heads
        return array.reshape(*array.shape[:2], layer.num_k_heads, -1)[..., -size:].reshape(shape)
    return array[..., start : start + layer.value_dim].reshape(shape)


def usable_layer_prompt(launcher: Launcher, layers: list[Any]) -> LayerPrompt | None:
    """Return the kernels if they compute what mlx-lm's `layers` compute, on this device; warn if not."""
    sizes = TRIAL_TOKENS, TRIAL_PADDING
    return usable_layer_kernel(lambda: LayerPrompt(launcher), layers, sizes, "prompts")
