"""A call of mlx-lm's `ssm_update`, the state space of Mamba 2, as its other forms take it."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from ..pass_functions import Function


@dataclass(frozen=True, slots=True)
class SpaceCall:
    """The arguments of a call without a mask."""

    hidden: mx.array  # (batch, tokens, heads, head_dim)
    log_rates: mx.array  # (heads,), how fast each head decays
    writes: mx.array  # (batch, tokens, groups, state_dim), what hidden vectors are written with: B
    reads: mx.array  # the same, what states are read with: C
    skips: mx.array  # (heads,), the share of the hidden vectors in the result
    times: mx.array  # (batch, tokens, heads), before softplus
    bias: mx.array  # (heads,), added to the times
    state: mx.array  # (batch, heads, head_dim, state_dim)
    limits: tuple[float, float]  # of the times after softplus

    @property
    def num_tokens(self) -> int:
        """Tokens of each row."""
        return self.hidden.shape[1]


def space_form(run: Callable[[SpaceCall], tuple[mx.array, mx.array] | None], theirs: Function) -> Function:
    """Return a function that takes the place of `ssm_update`.

    run: returns the layer's output and the new state, or None to leave the call to theirs.
    """

    def ssm_update(  # noqa: PLR0913  (mlx-lm's own parameters)
        hidden_states: mx.array,
        A_log: mx.array,
        B: mx.array,
        C: mx.array,
        D: mx.array,
        dt: mx.array,
        dt_bias: mx.array,
        state: mx.array | None = None,
        time_step_limit: tuple[float, float] = (0.001, 100.0),
        mask: mx.array | None = None,
        lengths: mx.array | None = None,
    ) -> tuple[mx.array, mx.array]:
        if mask is None and lengths is None:
            shape = (len(hidden_states), *hidden_states.shape[2:], B.shape[-1])
            before = mx.zeros(shape, mx.float32) if state is None else state
            done = run(SpaceCall(hidden_states, A_log, B, C, D, dt, dt_bias, before, time_step_limit))
            if done is not None:
                return done
        arguments = (hidden_states, A_log, B, C, D, dt, dt_bias, state, time_step_limit, mask, lengths)
        result: tuple[mx.array, mx.array] = theirs(*arguments)
        return result

    return ssm_update
