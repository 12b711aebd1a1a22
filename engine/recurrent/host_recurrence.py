"""Linear recurrences over a prompt's tokens in NumPy, for MLX's CPU device: chunks of tokens as matmuls.

A layer keeps, for each value head, a matrix S of value_dim x key_dim. A token decays S, may correct what S
holds for the token's key (the delta rule), adds its value under its key, and reads S with its query:

    S = S * decay;  update = beta * (value - S key), or the value;  S = S + update key^T;  out = S query

One token after another, that is a few operations on vectors a token. Written out over a chunk of tokens,
every update is a linear function of the state before the chunk and of the updates before it in the chunk: a
triangular system for each chunk, the rest matmuls (the WY form: Yang et al. 2024, Parallelizing Linear
Transformers with the Delta Rule, and Gated Delta Networks; without correction: Dao and Gu 2024, state space
duality). Gated DeltaNet, Kimi Delta Attention, Mamba 2 and lightning attention are all of this form.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

CHUNK = 32
"""Tokens of a chunk. 16 to 64 take about the same time on two cores; 128 several times as long."""

BLOCK = 8
"""Tokens of a block, in which the triangular system and the products under vector decays are direct."""

PARALLEL_WORK = 512
"""Tokens times value heads from which heads are spread over threads."""


@dataclass(frozen=True, slots=True)
class TokenInputs:
    """One sequence's tokens as a layer's recurrence takes them, in float32; heads are counted before dims."""

    queries: Floats  # (tokens, key_heads, key_dim)
    keys: Floats  # (tokens, key_heads, key_dim); each serves value_heads / key_heads value heads
    values: Floats  # (tokens, value_heads, value_dim)
    log_decays: Floats  # (tokens, value_heads), or (tokens, value_heads, key_dim); at most 0
    betas: Floats | None  # (tokens, value_heads); None for recurrences that add each value as it is

    def of_key_heads(self, first: int, end: int) -> "TokenInputs":
        """Return the inputs of the key heads from `first` to before `end`, and of their value heads."""
        group = self.values.shape[1] // self.keys.shape[1]
        heads = slice(first * group, end * group)
        return TokenInputs(
            self.queries[:, first:end],
            self.keys[:, first:end],
            self.values[:, heads],
            self.log_decays[:, heads],
            None if self.betas is None else self.betas[:, heads],
        )


class HostRecurrence:
    """Computes recurrences with several heads at a time: NumPy computes without the GIL, on one core a
    call."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="recurrence")

    def run(self, inputs: TokenInputs, state: Floats) -> Floats:
        """Feed the tokens to the state of their sequence.

        state: (value_heads, value_dim, key_dim), replaced in place by the state after the tokens.
        Returns what the tokens read, (tokens, value_heads, value_dim).
        """
        num_tokens, num_key_heads, _ = inputs.keys.shape
        out = np.empty(inputs.values.shape, np.float32)
        group = len(state) // num_key_heads

        def run_part(first: int, end: int) -> None:
            heads = slice(first * group, end * group)
            _run(inputs.of_key_heads(first, end), state[heads], out[:, heads])

        self.spread(run_part, num_key_heads, num_tokens * len(state))
        return out

    def spread(self, run_part: Callable[[int, int], None], num_heads: int, work: int) -> None:
        """Call `run_part` for parts of the heads, first and end, on several threads where `work` is large.

        work: tokens times value heads.
        """
        parts = 1 if work < PARALLEL_WORK else min(self._num_threads, num_heads)
        cuts = [num_heads * part // parts for part in range(parts + 1)]
        map_parts = map if parts == 1 else self._threads.map
        deque(map_parts(run_part, cuts[:-1], cuts[1:]), maxlen=0)


class Triangles(NamedTuple):
    """Constants of a chunk, (tokens, tokens): a row for each token, a column for those before it and
    itself."""

    causal: Floats  # 1 where the column's token is not after the row's
    before: Floats  # 1 where it is before the row's
    in_block: Floats  # `before`, within blocks of BLOCK tokens
    merges: tuple[Floats, ...]  # for sizes BLOCK, 2 BLOCK, ...: 1 where the column lies in the left half, the
    # row in the right half, of the same pair of parts of this size
    identity: Floats


@cache
def make_triangles(length: int) -> Triangles:
    """Return the constants of a chunk of `length` tokens."""
    row, column = np.arange(length)[:, None], np.arange(length)[None]
    merges, size = [], BLOCK
    while size < length:
        in_pair = row // (2 * size) == column // (2 * size)
        merges.append(in_pair & (row // size > column // size))
        size *= 2
    masks = [row >= column, row > column, (row > column) & (row // BLOCK == column // BLOCK), *merges]
    causal, before, in_block, *rest = (mask.astype(np.float32) for mask in masks)
    return Triangles(causal, before, in_block, tuple(rest), np.eye(length, dtype=np.float32))


def _run(inputs: TokenInputs, state: Floats, out: Floats) -> None:
    """Feed tokens to `state`, in place, a chunk at a time, and write what they read to `out`."""
    for first in range(0, len(out), CHUNK):
        chunk = slice(first, first + CHUNK)
        _run_chunk(
            TokenInputs(
                inputs.queries[chunk],
                inputs.keys[chunk],
                inputs.values[chunk],
                inputs.log_decays[chunk],
                None if inputs.betas is None else inputs.betas[chunk],
            ),
            state,
            out[chunk],
        )


def _run_chunk(inputs: TokenInputs, state: Floats, out: Floats) -> None:
    """Feed one chunk of tokens to `state`, in place, and write what they read to `out`."""
    length, num_key_heads = inputs.keys.shape[:2]
    by_key_head = (num_key_heads, len(state) // num_key_heads)
    triangles = make_triangles(length)
    both = np.concatenate([inputs.keys, inputs.queries]).swapaxes(0, 1)  # (key_heads, 2 length, key_dim)
    decays = (_ScalarDecays if inputs.log_decays.ndim == 2 else _VectorDecays)(inputs.log_decays, triangles)
    key_pairs, query_pairs = decays.pairs(both, by_key_head)  # (heads, length, length), decayed
    old = decays.read(both, state, by_key_head)  # (heads, 2 length, value_dim)
    updates: Floats = inputs.values.swapaxes(0, 1)
    if inputs.betas is not None:
        betas = inputs.betas.T[:, :, None]
        updates = (updates - old[:, :length]) * betas
        updates = invert(key_pairs * (triangles.before * betas), triangles) @ updates
    read = (query_pairs * triangles.causal) @ updates
    read += old[:, length:]
    out[:] = read.swapaxes(0, 1)
    decays.add(updates, both[:, :length], state, by_key_head)


def invert(lower: Floats, triangles: Triangles) -> Floats:
    """Return the inverse of the identity plus `lower`, (heads, length, length), zero on and above the
    diagonal.

    Within blocks of 8, `lower` to the power of 8 is zero, so (1 - L)(1 + L^2)(1 + L^4) is the inverse.
    Blocks are then merged two by two: the inverse of [[A, 0], [B, C]] has -C^-1 B A^-1 below its diagonal
    blocks. The product over a whole chunk would be wrong: for equal keys its terms grow as binomial
    coefficients, and cancel.
    """
    block = lower * triangles.in_block
    square = block @ block
    inverse = triangles.identity - block
    inverse += inverse @ square
    inverse += inverse @ (square @ square)
    for merge in triangles.merges:
        inverse -= inverse @ ((lower * merge) @ inverse)
    return inverse


class _ScalarDecays:
    """The decays of a chunk where a token decays the whole state of a head alike."""

    def __init__(self, log_decays: Floats, triangles: Triangles) -> None:
        """log_decays: (length, heads)."""
        sums = np.cumsum(log_decays.T, axis=1, dtype=np.float64)  # (heads, length), from the chunk's start
        self._since_start: Floats = np.exp(sums.astype(np.float32))[:, :, None]
        self._to_end: Floats = np.exp((sums[:, -1:] - sums).astype(np.float32))[:, :, None]
        between = np.minimum(sums[:, :, None] - sums[:, None, :], 0)
        self._between: Floats = np.exp(between.astype(np.float32))

    def pairs(self, both: Floats, by_key_head: tuple[int, int]) -> tuple[Floats, Floats]:
        """Return the products of each key, and of each query, with each key, decayed between the two
        tokens."""
        length = both.shape[1] // 2
        products = both @ both[:, :length].swapaxes(1, 2)
        between = self._between.reshape(*by_key_head, length, length)
        key_pairs = (products[:, None, :length] * between).reshape(-1, length, length)
        query_pairs = (products[:, None, length:] * between).reshape(-1, length, length)
        return key_pairs, query_pairs

    def read(self, both: Floats, state: Floats, by_key_head: tuple[int, int]) -> Floats:
        """Return what the keys, then the queries, read from the state before the chunk, decayed until
        then."""
        by_head = state.reshape(*by_key_head, *state.shape[1:])
        old: Floats = (both[:, None] @ by_head.swapaxes(2, 3)).reshape(len(state), both.shape[1], -1)
        length = both.shape[1] // 2
        old[:, :length] *= self._since_start
        old[:, length:] *= self._since_start
        return old

    def add(self, updates: Floats, keys: Floats, state: Floats, by_key_head: tuple[int, int]) -> None:
        """Decay the state, in place, to the chunk's end, and add the updates under their keys."""
        decayed = updates * self._to_end
        by_head = decayed.reshape(*by_key_head, *decayed.shape[1:])
        state *= self._since_start[:, -1:]
        state += (by_head.swapaxes(2, 3) @ keys[:, None]).reshape(state.shape)


class _VectorDecays:
    """The decays of a chunk where a token decays each element of a head's keys by itself.

    A product of two tokens' keys is then a sum with a decay for each element. Between blocks the decay is
    split at the start of the later token's block, so that both factors are at most 1 and the sums are
    matmuls; one factor for a whole chunk, as for scalars, would overflow. Within blocks the sums are
    written out.
    """

    def __init__(self, log_decays: Floats, triangles: Triangles) -> None:
        """log_decays: (length, heads, key_dim)."""
        self._sums = np.cumsum(
            log_decays.swapaxes(0, 1), axis=1, dtype=np.float64
        )  # (heads, length, key_dim)
        self._since_start: Floats = np.exp(self._sums.astype(np.float32))

    def pairs(self, both: Floats, by_key_head: tuple[int, int]) -> tuple[Floats, Floats]:
        """Return the products of each key, and of each query, with each key, decayed between the two
        tokens."""
        num_heads, length, key_dim = self._sums.shape
        heads = np.repeat(both, by_key_head[1], 0).reshape(
            num_heads, 2, length, key_dim
        )  # keys, then queries
        pairs = np.zeros((num_heads, 2, length, length), np.float32)
        for first in range(0, length, BLOCK):
            rows = slice(first, min(first + BLOCK, length))
            sums = self._sums[:, rows]
            between = np.exp(np.minimum(sums[:, :, None] - sums[:, None], 0).astype(np.float32))
            columns = between * heads[:, 0, None, rows]  # (heads, rows, columns, key_dim)
            written_out = columns @ heads[:, :, rows].transpose(0, 2, 3, 1)  # (heads, rows, columns, 2)
            pairs[:, :, rows, rows] = written_out.transpose(0, 3, 1, 2)
            if first:
                start = self._sums[:, first - 1 : first]
                since = np.exp((sums - start).astype(np.float32))[:, None] * heads[:, :, rows]
                until = np.exp((start - self._sums[:, :first]).astype(np.float32)) * heads[:, 0, :first]
                pairs[:, :, rows, :first] = since @ until.swapaxes(1, 2)[:, None]
        return pairs[:, 0], pairs[:, 1]

    def read(self, both: Floats, state: Floats, by_key_head: tuple[int, int]) -> Floats:
        """Return what the keys, then the queries, read from the state before the chunk, decayed until
        then."""
        decayed = np.repeat(both, by_key_head[1], 0)
        length = both.shape[1] // 2
        decayed[:, :length] *= self._since_start
        decayed[:, length:] *= self._since_start
        old: Floats = decayed @ state.swapaxes(1, 2)
        return old

    def add(self, updates: Floats, keys: Floats, state: Floats, by_key_head: tuple[int, int]) -> None:
        """Decay the state, in place, to the chunk's end, and add the updates under their keys."""
        to_end = np.exp((self._sums[:, -1:] - self._sums).astype(np.float32))
        state *= self._since_start[:, -1:]
        state += updates.swapaxes(1, 2) @ (np.repeat(keys, by_key_head[1], 0) * to_end)
