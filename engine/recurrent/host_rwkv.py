"""RWKV-7's recurrence over a prompt's tokens in NumPy, for MLX's CPU device, in chunks of tokens.

A token decays each column of a head's state S, corrects it by a matrix of rank one, adds its value under
its key:

    S = S diag(decay) + (S a) b^T + value key^T;  out = S receptance

The corrections of a chunk are the solution of a triangular system, as those of the delta rule are; see
`host_recurrence.py`. Decays are at least exp(-0.607) by the model's definition, so that those of a whole
chunk can be split at its middle into two factors for matmuls.
"""

from dataclasses import dataclass

import numpy as np

from .host_recurrence import CHUNK, Floats, invert, make_triangles


@dataclass(frozen=True, slots=True)
class RwkvInputs:
    """Tokens of one sequence, each array (tokens, heads, dim)."""

    receptances: Floats
    log_decays: Floats
    keys: Floats
    values: Floats
    reads: Floats  # a: what is corrected is what it reads from the state before the token
    corrections: Floats  # b: where it is corrected

    def part(self, tokens: slice, heads: slice) -> "RwkvInputs":
        """Return the inputs of some tokens and heads."""
        arrays = (self.receptances, self.log_decays, self.keys, self.values, self.reads, self.corrections)
        return RwkvInputs(*(array[tokens, heads] for array in arrays))


def run_heads(inputs: RwkvInputs, state: Floats, out: Floats) -> None:
    """Feed tokens to `state`, (heads, dim, dim), in place; write what they read to `out`, (tokens, heads,
    dim)."""
    for first in range(0, len(out), CHUNK):
        chunk = slice(first, first + CHUNK)
        _run_chunk(inputs.part(chunk, slice(None)), state, out[chunk])


def _run_chunk(inputs: RwkvInputs, state: Floats, out: Floats) -> None:
    length, triangles = len(out), make_triangles(len(out))
    by_head = {name: getattr(inputs, name).swapaxes(0, 1) for name in RwkvInputs.__slots__}
    logs = by_head["log_decays"]
    sums = np.cumsum(logs, axis=1, dtype=np.float64)  # (heads, length, dim), from the chunk's start
    middle, last = sums[:, length // 2, None], sums[:, -1:]
    readers = np.concatenate([by_head["reads"], by_head["receptances"]], axis=1)
    writers = np.concatenate([by_head["corrections"], by_head["keys"]], axis=1)
    read_sums = np.concatenate(
        [sums - logs, sums], axis=1
    )  # a token reads for its correction before it decays
    write_sums = np.concatenate([sums, sums], axis=1)
    pairs = (readers * _exp(read_sums - middle)) @ (writers * _exp(middle - write_sums)).swapaxes(1, 2)
    old = (readers * _exp(read_sums)) @ state.swapaxes(1, 2)
    values = by_head["values"]
    corrected, added = pairs[:, :length, :length], pairs[:, :length, length:]
    wanted = old[:, :length] + (added * triangles.before) @ values
    updates = invert(corrected * -triangles.before, triangles) @ wanted
    both = np.concatenate([updates, values], axis=1)
    causal = np.concatenate([triangles.causal, triangles.causal], axis=1)
    out[:] = (old[:, length:] + (pairs[:, length:] * causal) @ both).swapaxes(0, 1)
    state *= _exp(last)
    state += both.swapaxes(1, 2) @ (writers * _exp(last - write_sums))


def _exp(logs: np.typing.NDArray[np.float64]) -> Floats:
    result: Floats = np.exp(logs.astype(np.float32))
    return result
