"""A call of mlx-lm's `gated_delta_update`, as its other forms take it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..pass_functions import Function
from .delta_rule import DeltaInputs


@dataclass(frozen=True, slots=True)
class DeltaCall:
    """The arguments of a call without a mask, before the gates are computed; shapes as in DeltaInputs."""

    queries: mx.array
    keys: mx.array
    values: mx.array
    times: mx.array  # as log_decays of DeltaInputs
    betas: mx.array  # before the sigmoid
    log_rates: mx.array  # how fast each head decays, and
    bias: mx.array  # what is added to the times; both broadcast to `times`
    state: mx.array  # (batch, value_heads, value_dim, key_dim)
    lower_bound: float | None  # of the log-decays; None: they have none
    beta_scale: float

    @property
    def num_tokens(self) -> int:
        """Tokens of each row."""
        return self.queries.shape[1]

    def inputs(self) -> DeltaInputs:
        """Compute the gates; lazy."""
        rates = mx.exp(self.log_rates.astype(mx.float32))
        if self.lower_bound is None:
            log_decays = -rates * nn.softplus(self.times + self.bias).astype(mx.float32)
        else:
            log_decays = self.lower_bound * mx.sigmoid(rates * (self.times.astype(mx.float32) + self.bias))
        betas = mx.sigmoid(self.betas) * self.beta_scale
        return DeltaInputs(self.queries, self.keys, self.values, log_decays, betas)


def delta_form(run: Callable[[DeltaCall], tuple[mx.array, mx.array] | None], theirs: Function) -> Function:
    """Return a function that takes the place of `gated_delta_update`.

    run: returns what the tokens read and the new state, or None to leave the call to theirs.
    """

    def gated_delta_update(  # noqa: PLR0913  (mlx-lm's own parameters)
        q: mx.array,
        k: mx.array,
        v: mx.array,
        a: mx.array,
        b: mx.array,
        A_log: mx.array,
        dt_bias: mx.array,
        state: mx.array | None = None,
        mask: mx.array | None = None,
        *,
        lower_bound: float | None = None,
        allow_neg_eigval: bool = False,
        **more: Any,
    ) -> tuple[mx.array, mx.array]:
        if mask is None:
            shape = (q.shape[0], *v.shape[2:], k.shape[-1])
            before = mx.zeros(shape, mx.float32) if state is None else state
            scale = 2.0 if allow_neg_eigval else 1.0
            done = run(DeltaCall(q, k, v, a, b, A_log, dt_bias, before, lower_bound, scale))
            if done is not None:
                return done[0].astype(q.dtype), done[1]
        more |= {"lower_bound": lower_bound, "allow_neg_eigval": allow_neg_eigval}
        result: tuple[mx.array, mx.array] = theirs(q, k, v, a, b, A_log, dt_bias, state, mask, **more)
        return result

    return gated_delta_update
