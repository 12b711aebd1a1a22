"""The gated delta rule in plain MLX: prompts in chunks of tokens, decode in few operations.

`host_recurrence.py` explains the rule and its chunks; NumPy computes it there on MLX's CPU device. A GPU
wants few and large operations instead: all that does not need the state is computed for all chunks at once,
and only the state goes from chunk to chunk. On CUDA, MLX multiplies float32 matrices as TF32 (10 bits of
mantissa), unless MLX_ENABLE_TF32=0; what the state keeps from chunk to chunk is multiplied by its decay
only, in float32.
"""

from dataclasses import dataclass

import mlx.core as mx

CHUNK = 64
"""Tokens of a chunk; also the rows of the matmuls."""

BLOCK = 8
"""Tokens of a block, within which vector decays are written out pair by pair."""

SEGMENT = 2048
"""Tokens that are computed at once, which bounds the memory: a few times 16 kB a token and head of 128."""

LOWEST_LOG_DECAY = -30.0
"""The strongest decay of a token, 1e-13: sums of stronger ones would lose the digits of weak ones."""


@dataclass(frozen=True, slots=True)
class DeltaInputs:
    """Tokens of a batch as the delta rule takes them, in any float type."""

    queries: mx.array  # (batch, tokens, key_heads, key_dim)
    keys: mx.array  # (batch, tokens, key_heads, key_dim)
    values: mx.array  # (batch, tokens, value_heads, value_dim)
    log_decays: mx.array  # (batch, tokens, value_heads), or (batch, tokens, value_heads, key_dim); at most 0
    betas: mx.array | None  # (batch, tokens, value_heads); None adds values as they are, for `step` only

    def of_tokens(self, first: int, end: int) -> "DeltaInputs":
        """Return the inputs of the tokens from `first` to before `end`."""
        arrays = (self.queries, self.keys, self.values, self.log_decays)
        queries, keys, values, log_decays = (array[:, first:end] for array in arrays)
        betas = None if self.betas is None else self.betas[:, first:end]
        return DeltaInputs(queries, keys, values, log_decays, betas)


def step(inputs: DeltaInputs, state: mx.array) -> tuple[mx.array, mx.array]:
    """Feed one token a row to `state`, (batch, value_heads, value_dim, key_dim).

    Returns what the tokens read, (batch, 1, value_heads, value_dim), and the new state.
    """
    values = inputs.values[:, 0]
    num_rows, num_heads = values.shape[:2]
    both = mx.stack([inputs.keys[:, 0], inputs.queries[:, 0]], -1)  # (batch, key_heads, key_dim, 2)
    both = mx.repeat(both, num_heads // both.shape[1], 1)
    decays = mx.exp(inputs.log_decays).reshape(num_rows, num_heads, 1, -1)
    state = state * decays
    read = state @ both.astype(state.dtype)  # (batch, value_heads, value_dim, 2): by the key, by the query
    updates = values
    if inputs.betas is not None:
        updates = (values - read[..., 0]) * inputs.betas.reshape(num_rows, num_heads, 1)
    match = (both[..., 0] * both[..., 1]).sum(-1, keepdims=True)
    out = read[..., 1] + updates * match
    state = state + updates[..., None] * both[..., None, :, 0]
    return out[:, None], state


def run(inputs: DeltaInputs, state: mx.array) -> tuple[mx.array, mx.array]:
    """Feed tokens to `state`, (batch, value_heads, value_dim, key_dim), float32.

    Returns what the tokens read, (batch, tokens, value_heads, value_dim) in float32, and the new state.
    """
    num_tokens = inputs.values.shape[1]
    if num_tokens == 1:
        return step(inputs, state)
    outs = []
    for first in range(0, num_tokens, SEGMENT):
        out, state = _run_segment(inputs.of_tokens(first, first + SEGMENT), state)
        outs.append(out)
    return outs[0] if len(outs) == 1 else mx.concatenate(outs, axis=1), state


def _run_segment(inputs: DeltaInputs, state: mx.array) -> tuple[mx.array, mx.array]:
    """Feed up to SEGMENT tokens to `state`; see `run`."""
    assert inputs.betas is not None
    num_rows, num_tokens, num_heads, value_dim = inputs.values.shape
    group = num_heads // inputs.keys.shape[2]
    keys = _by_chunk(inputs.keys)  # (chunks, batch, heads, CHUNK, dim), as all that follow
    both = mx.concatenate([keys, _by_chunk(inputs.queries)], axis=3)
    values, betas = _by_chunk(inputs.values), _by_chunk(inputs.betas[..., None])
    log_decays = inputs.log_decays[..., None] if inputs.log_decays.ndim == 3 else inputs.log_decays
    sums = mx.cumsum(mx.maximum(_by_chunk(log_decays), LOWEST_LOG_DECAY), axis=3)
    if log_decays.shape[3] == 1:
        between = mx.exp(mx.minimum(sums - sums.swapaxes(3, 4), 0))
        pairs = mx.repeat(both @ keys.swapaxes(3, 4), group, 2) * mx.concatenate([between, between], axis=3)
        both = mx.repeat(both, group, 2)
    else:
        both = mx.repeat(both, group, 2)
        pairs = _pairs_by_element(both, sums)
    keys = both[..., :CHUNK, :]
    causal = mx.tril(mx.ones((CHUNK, CHUNK)))
    inverse = _inverse(pairs[..., :CHUNK, :] * mx.tril(causal, -1) * betas)
    since_start = mx.exp(sums)
    solved = inverse @ mx.concatenate([values * betas, keys * (since_start * betas)], axis=4)
    own, of_state = solved[..., :value_dim], solved[..., value_dim:]  # updates = own - of_state @ state^T
    to_end, whole = keys * mx.exp(sums[..., -1:, :] - sums), since_start[..., -1:, :]
    updates, states = [], []
    for chunk in range(len(keys)):
        states.append(state)
        updates.append(mx.addmm(own[chunk], of_state[chunk], state.swapaxes(2, 3), alpha=-1.0))
        state = mx.addmm(state * whole[chunk], updates[-1].swapaxes(2, 3), to_end[chunk])
    old = (both[..., CHUNK:, :] * since_start) @ mx.stack(states).swapaxes(3, 4)
    out = old + (pairs[..., CHUNK:, :] * causal) @ mx.stack(updates)
    out = out.transpose(1, 0, 3, 2, 4).reshape(num_rows, -1, num_heads, value_dim)
    return out[:, :num_tokens], state


def _by_chunk(array: mx.array) -> mx.array:
    """Return (batch, tokens, heads, dim) as (chunks, batch, heads, CHUNK, dim) in float32, ended with zeros.

    A token of zeros changes nothing: it decays by a factor of exp(0), and its beta is 0.
    """
    num_rows, num_tokens, num_heads, dim = array.shape
    array = array.astype(mx.float32)
    if num_tokens % CHUNK:
        array = mx.pad(array, [(0, 0), (0, -num_tokens % CHUNK), (0, 0), (0, 0)])
    return array.reshape(num_rows, -1, CHUNK, num_heads, dim).transpose(1, 0, 3, 2, 4)


def _pairs_by_element(both: mx.array, sums: mx.array) -> mx.array:
    """Return the products of keys, then queries, with keys, decayed element by element between the tokens.

    both: keys, then queries, (chunks, batch, heads, 2 CHUNK, dim). sums: of the log-decays from the chunk's
    start on, (chunks, batch, heads, CHUNK, dim). Between blocks the decay is split at the start of the
    later token's block, so that neither factor exceeds 1; within blocks the products are written out.
    Returns (chunks, batch, heads, 2 CHUNK, CHUNK); above the diagonal, anything finite.
    """
    *outer, length, dim = sums.shape
    by_block = sums.reshape(*outer, -1, BLOCK, dim)
    starts = mx.pad(by_block[..., :-1, -1, :], [(0, 0)] * len(outer) + [(1, 0), (0, 0)])
    rows = both.reshape(*outer, 2, -1, BLOCK, dim)
    keys = both[..., :length, :]
    since = rows * mx.exp(by_block - starts[..., None, :])[..., None, :, :, :]
    until = keys[..., None, :, :] * mx.exp(mx.minimum(starts[..., None, :] - sums[..., None, :, :], 0))
    far = since @ until[..., None, :, :, :].swapaxes(-1, -2)  # (..., 2, blocks, BLOCK, length)
    between = mx.exp(mx.minimum(by_block[..., None, :] - by_block[..., None, :, :], 0))
    columns = between * rows[..., 0, :, None, :, :]  # (..., blocks, BLOCK, BLOCK, dim)
    near = (columns[..., None, :, :, :, :] @ rows[..., None])[..., 0]  # (..., 2, blocks, BLOCK, BLOCK)
    block = mx.arange(length) // BLOCK
    is_near = (block[:, None] == block[None]).reshape(-1, BLOCK, length)
    near = mx.concatenate([near] * (length // BLOCK), axis=-1)
    return mx.where(is_near, near, far).reshape(*outer, 2 * length, length)


def _inverse(lower: mx.array) -> mx.array:
    """Return the inverse of the identity plus `lower`, (..., CHUNK, CHUNK), zero on and above the diagonal.

    The inverses of the diagonal's blocks of 1, 2, 4, ... tokens are merged two by two: that of [[A, 0], [B,
    C]] has -C^-1 B A^-1 below its diagonal blocks.
    """
    row, column = mx.arange(CHUNK)[:, None], mx.arange(CHUNK)[None]
    inverse, size = mx.eye(CHUNK), 1
    while size < CHUNK:
        in_pair = row // (2 * size) == column // (2 * size)
        left_below = lower * (in_pair & (row // size > column // size))
        inverse = inverse - (left_below if size == 1 else inverse @ (left_below @ inverse))
        size *= 2
    return inverse
