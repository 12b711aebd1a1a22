"""mlx-lm's recurrences as this package computes them on MLX's CPU device; each takes the place of one of
theirs.

Prompts are computed in NumPy, which evaluates the inputs; one token a row, and a few, in lazy MLX
operations, so that `probe` computes nothing. NumPy's exp is also some ten times as fast as MLX's there.
With a mask (padded batches, which Pensieve has none of) mlx-lm's own function serves.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..pass_functions import Function
from .delta_call import DeltaCall, delta_form
from .delta_rule import DeltaInputs, step
from .host_recurrence import Floats, HostRecurrence, TokenInputs
from .space_call import SpaceCall, space_form

MIN_TOKENS = 4
"""Tokens of a slice from which NumPy computes it."""


def to_numpy(array: mx.array) -> Floats:
    """Evaluate an array and return its elements in float32, without a copy where that is their type."""
    return np.asarray(array.astype(mx.float32))


def softplus(array: Floats) -> Floats:
    """Return log(1 + e^x)."""
    result: Floats = np.maximum(array, 0) + np.log1p(np.exp(-np.abs(array)))
    return result


def sigmoid(array: Floats) -> Floats:
    """Return 1 / (1 + e^-x)."""
    with np.errstate(over="ignore"):  # e^-x may be infinite: the result is then 0, as it should be
        result: Floats = np.reciprocal(1 + np.exp(-array))
    return result


def run_rows(recurrence: HostRecurrence, rows: list[TokenInputs], state: Floats) -> tuple[mx.array, mx.array]:
    """Feed each row's tokens to its state.

    state: (rows, value_heads, value_dim, key_dim), left as it is.
    Returns what the tokens read, (rows, tokens, value_heads, value_dim), and the new states.
    """
    after = np.array(state, order="C")
    outs = [recurrence.run(inputs, row_state) for inputs, row_state in zip(rows, after, strict=True)]
    return mx.array(np.stack(outs)), mx.array(after)


def gated_delta_form(recurrence: HostRecurrence, theirs: Function) -> Function:
    """Return the form of `gated_delta_update`: Gated DeltaNet, Kimi Delta Attention."""

    def run(call: DeltaCall) -> tuple[mx.array, mx.array] | None:
        if call.num_tokens == 1:
            return step(call.inputs(), call.state)
        if call.num_tokens < MIN_TOKENS:
            return None
        arrays = (call.queries, call.keys, call.values, call.times, call.bias)
        queries, keys, values, times, bias = (to_numpy(each) for each in arrays)
        rates, betas = np.exp(to_numpy(call.log_rates)), call.beta_scale * sigmoid(to_numpy(call.betas))
        if call.lower_bound is None:
            log_decays = -rates * softplus(times + bias)
        else:
            log_decays = call.lower_bound * sigmoid(rates * (times + bias))
        rows = zip(queries, keys, values, log_decays, betas, strict=True)
        return run_rows(recurrence, [TokenInputs(*row) for row in rows], to_numpy(call.state))

    return delta_form(run, theirs)


def state_space_form(recurrence: HostRecurrence, theirs: Function) -> Function:
    """Return the form of `ssm_update`: Mamba 2."""

    def run(call: SpaceCall) -> tuple[mx.array, mx.array] | None:
        if 1 < call.num_tokens < MIN_TOKENS:
            return None
        if call.num_tokens == 1:
            times = mx.clip(nn.softplus(call.times.astype(mx.float32) + call.bias), *call.limits)
            log_decays = -mx.exp(call.log_rates.astype(mx.float32)) * times
            inputs = DeltaInputs(call.reads, call.writes, times[..., None] * call.hidden, log_decays, None)
            out, state = step(inputs, call.state)
        else:
            arrays = (call.hidden, call.writes, call.reads, call.times)
            hidden, writes, reads, steps = (to_numpy(each) for each in arrays)
            taken = np.clip(softplus(steps + to_numpy(call.bias)), *call.limits).astype(np.float32)
            rates = -np.exp(to_numpy(call.log_rates))
            rows = zip(reads, writes, taken[..., None] * hidden, taken * rates, strict=True)
            out, state = run_rows(recurrence, [TokenInputs(*row, None) for row in rows], to_numpy(call.state))
        return out.astype(call.hidden.dtype) + call.hidden * call.skips[:, None], state

    return space_form(run, theirs)


def lightning_form(recurrence: HostRecurrence, theirs: Function) -> Function:
    """Return the form of `recurrent_gla`: attention with a constant decay a head."""

    def recurrent_gla(  # noqa: PLR0913  (mlx-lm's own parameters)
        q: mx.array,
        k: mx.array,
        v: mx.array,
        g: mx.array,
        scale: float,
        h: mx.array | None = None,
        mask: mx.array | None = None,
        **more: Any,
    ) -> tuple[mx.array, mx.array]:
        num_rows, num_heads, num_tokens, _ = q.shape
        if mask is not None or num_tokens < MIN_TOKENS:
            more |= {"mask": mask} if mask is not None else {}
            result: tuple[mx.array, mx.array] = theirs(q=q, k=k, v=v, g=g, scale=scale, h=h, **more)
            return result
        if h is None:
            h = mx.zeros((num_rows, num_heads, k.shape[-1], v.shape[-1]), mx.float32)
        queries, keys, values = (to_numpy(each).swapaxes(1, 2) for each in (q * scale, k, v))
        log_decays = np.broadcast_to(to_numpy(g), (num_tokens, num_heads))
        rows = [TokenInputs(*row, log_decays, None) for row in zip(queries, keys, values, strict=True)]
        out, state = run_rows(recurrence, rows, to_numpy(h).swapaxes(2, 3))
        return out.swapaxes(1, 2).astype(q.dtype), mx.contiguous(state.swapaxes(2, 3)).astype(h.dtype)

    return recurrent_gla
