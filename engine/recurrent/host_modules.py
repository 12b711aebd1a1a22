"""Methods of mlx-lm's layers, and activations, as this package computes them on MLX's CPU device.

MLX takes 50 to 100 ns there for each element of an exp, a sigmoid or a tanh, NumPy 5 to 10.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..pass_functions import Function
from .host_forms import MIN_TOKENS, softplus, to_numpy
from .host_recurrence import Floats, HostRecurrence
from .host_rwkv import RwkvInputs, run_heads
from .host_scans import linear_scan, selective_scan

MIN_ELEMENTS = 4096
"""Elements from which NumPy computes an activation: it evaluates what comes before."""


def silu_form(theirs: Function) -> Function:
    """Return the form of `nn.silu`, x sigmoid(x)."""

    def silu(x: mx.array) -> mx.array:
        gates = _elements(x)
        if gates is None:
            result: mx.array = theirs(x)
            return result
        return mx.array(_silu(gates)).astype(x.dtype)

    return silu


def swiglu_form(theirs: Function) -> Function:
    """Return the form of `swiglu`, silu(gate) x."""

    def swiglu(gate: mx.array, x: mx.array) -> mx.array:
        gates = _elements(gate)
        if gates is None:
            result: mx.array = theirs(gate, x)
            return result
        return mx.array(_silu(gates)).astype(gate.dtype) * x

    return swiglu


def _elements(array: mx.array) -> Floats | None:
    """Return the elements, None where MLX is the better choice: few of them, or MLX is tracing a function."""
    if array.size < MIN_ELEMENTS:
        return None
    try:
        return to_numpy(array)
    except ValueError:  # a tracer has no elements
        return None


def _silu(x: Floats) -> Floats:
    with np.errstate(over="ignore"):  # e^-x may be infinite: the result is then -0, as it should be
        result: Floats = x / (1 + np.exp(-x))
    return result


def mamba_form(theirs: Function) -> Function:
    """Return the form of `MambaBlock._process_sequence`, which projects all tokens at once."""

    def process_sequence(
        self: Any, x: mx.array, conv_cache: mx.array | None, state_cache: mx.array | None
    ) -> Any:
        if x.shape[1] < MIN_TOKENS:
            return theirs(self, x, conv_cache, state_cache)
        x, z = mx.split(self.in_proj(x), 2, axis=-1)
        kept = self.conv_kernel_size - 1
        if conv_cache is None:
            conv_cache = mx.zeros((len(x), kept, x.shape[2]), x.dtype)
        joined = mx.concatenate([conv_cache, x], axis=1)
        x = nn.silu(self.conv1d(joined))
        sizes = [self.time_step_rank, self.time_step_rank + self.ssm_state_size]
        parts: list[mx.array] = list(mx.split(self.x_proj(x), sizes, axis=-1))
        if self.use_bcdt_rms:
            parts = [mx.fast.rms_norm(part, weight=None, eps=self.args.mixer_rms_eps) for part in parts]
        y, state = _scan(self, x, parts, state_cache)
        return self.out_proj(nn.silu(z) * y), (joined[:, -kept:], state)

    return process_sequence


def jamba_form(theirs: Function) -> Function:
    """Return the form of `JambaMambaMixer.ssm_step`."""

    def ssm_step(self: Any, x: mx.array, A: mx.array, state: mx.array | None = None) -> Any:
        if x.shape[1] < MIN_TOKENS:
            return theirs(self, x, A, state)
        sizes = [self.time_step_rank, self.time_step_rank + self.ssm_state_size]
        steps, into, read = mx.split(self.x_proj(x), sizes, axis=-1)
        parts = [self.dt_layernorm(steps), self.b_layernorm(into), self.c_layernorm(read)]
        return _scan(self, x, parts, state)

    return ssm_step


def _scan(
    layer: Any, x: mx.array, parts: list[mx.array], state: mx.array | None
) -> tuple[mx.array, mx.array]:
    """Run Mamba's scan over each row; return what the tokens read and the new states.

    layer: has `dt_proj`, `A_log` and `D`. x: (rows, tokens, channels). parts: the low-rank steps, how
    inputs go into the state, how it is read.
    """
    inputs, into, read = (to_numpy(each) for each in (x, *parts[1:]))
    steps, rates = softplus(to_numpy(layer.dt_proj(parts[0]))), -np.exp(to_numpy(layer.A_log))
    after = np.zeros((len(x), *rates.shape), np.float32) if state is None else np.array(to_numpy(state))
    outs = [
        selective_scan(inputs[row], steps[row], rates, (into[row], read[row]), after[row])
        for row in range(len(x))
    ]
    out = mx.array(np.stack(outs)).astype(x.dtype) + layer.D * x
    return out, mx.array(after).astype(x.dtype if state is None else state.dtype)


def linear_scan_form(theirs: Function) -> Function:
    """Return the form of `rnn_scan`: Griffin's RG-LRU."""

    def rnn_scan(x: mx.array, a: mx.array, h0: mx.array | None) -> tuple[mx.array, mx.array]:
        if x.shape[1] < MIN_TOKENS:
            result: tuple[mx.array, mx.array] = theirs(x, a, h0)
            return result
        inputs, decays = to_numpy(x), to_numpy(a)
        before = np.zeros_like(inputs[:, 0]) if h0 is None else to_numpy(h0)
        states = [linear_scan(*row) for row in zip(inputs, decays, before, strict=True)]
        out = mx.array(np.stack(states)).astype(x.dtype)
        return out, out[:, -1]

    return rnn_scan


def rwkv_form(recurrence: HostRecurrence, theirs: Function) -> Function:
    """Return the form of `Rwkv7TimeMixing._wkv7`."""

    def wkv7(self: Any, *arrays: mx.array, **more: Any) -> Any:
        *inputs, state = arrays
        if inputs[0].shape[1] < MIN_TOKENS or more:
            return theirs(self, *arrays, **more)
        num_rows, num_tokens, num_heads, dim = inputs[0].shape
        receptances, decays, *others = (to_numpy(array) for array in inputs)
        after = np.zeros((num_rows, num_heads, dim, dim), np.float32)
        if state is not None:
            after[:] = to_numpy(state)
        out, log_decays = np.empty_like(receptances), np.log(decays)
        for row in range(num_rows):
            tokens = RwkvInputs(receptances[row], log_decays[row], *(array[row] for array in others))

            def run_part(first: int, end: int, row: int = row, tokens: RwkvInputs = tokens) -> None:
                heads = slice(first, end)
                run_heads(tokens.part(slice(None), heads), after[row, heads], out[row, :, heads])

            recurrence.spread(run_part, num_heads, num_tokens * num_heads)
        dtype = inputs[0].dtype
        return mx.array(out).astype(dtype), mx.array(after).astype(dtype if state is None else state.dtype)

    return wkv7
