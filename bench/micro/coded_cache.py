"""A cache of mlx-lm's kind whose keys and values lose what a coding would lose.

Blocks that stay in full are seen in full by the queries near them and coded by all others: both forms are
handed to attention, and the mask shows each query one form of each token.
"""

from collections import abc
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from .kv_codings import Coding

BLOCK = 32
"""Tokens of a block, as in the server's pools."""


@dataclass(frozen=True)
class KVCoding:
    """How keys and values are coded, and which blocks are not."""

    keys: Coding
    values: Coding
    first_in_full: int = 0  # blocks at a row's start that all queries see in full
    newest_in_full: int = 0  # blocks that a query sees in full, its own among them
    are_keys_centred: bool = False  # coded less a fixed vector, which attention does not notice
    are_keys_balanced: bool = False  # coded with channels scaled for equal parts in the scores

    def bits_per_element(self, dim: int) -> float:
        """Return what an element takes on average where no block is in full."""
        return (self.keys.bits_per_element(dim) + self.values.bits_per_element(dim)) / 2


@dataclass(frozen=True)
class KeyFrame:
    """A layer's keys: (num_kv_heads, 1, dim) each, for any token."""

    shift: mx.array  # what is added to the keys as they come, as an outlier of all tokens
    centre: mx.array  # their mean
    factor: mx.array  # what each channel is divided by where channels are balanced


class CodedCache:
    """The keys and values of one layer that attends to all tokens, for calls of whole blocks."""

    def __init__(self, coding: KVCoding, frame: KeyFrame) -> None:
        self.offset = 0
        self._coding, self._frame = coding, frame
        self._coded: list[mx.array] | None = None
        self._full: list[mx.array] | None = None
        self._full_places: list[int] = []  # of the tokens in full

    def make_mask(self, N: int, window_size: int | None = None, return_array: bool = False) -> Any:
        """Return which form of which token each of N new queries sees. Raises ValueError for a window."""
        if window_size is not None:
            raise ValueError("codings are compared without windows")
        first, newest = self._coding.first_in_full, self._coding.newest_in_full
        places = self.offset + mx.arange(N)
        if not first and not newest:
            return places[:, None] >= mx.arange(self.offset + N)[None]

        def seen(tokens: mx.array, in_full: bool) -> mx.array:
            distance = places[:, None] // BLOCK - tokens[None] // BLOCK
            is_near = (distance < newest) | (tokens[None] < first * BLOCK)
            return (places[:, None] >= tokens[None]) & (is_near == in_full)

        coded, full = mx.arange(self.offset + N), mx.array(self._full_tokens(N))
        return mx.concatenate([seen(coded, False), seen(full, True)], axis=1)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keep new tokens; return all in their coded form, then those that some query sees in full."""
        num_tokens = keys.shape[2]
        new = [keys + self._frame.shift, values]
        coded = [self._restored_keys(new[0]), self._coding.values.restore(values)]
        self._coded = coded if self._coded is None else _joined(self._coded, coded)
        kept = self._full_tokens(num_tokens)
        if kept:
            together = new if self._full is None else _joined(self._full, new)
            places = [*self._full_places, *range(self.offset, self.offset + num_tokens)]
            rows = mx.array([places.index(token) for token in kept])
            self._full, self._full_places = [part[:, :, rows] for part in together], kept
        self.offset += num_tokens
        own = self._coded if self._full is None else _joined(self._coded, self._full)
        return own[0], own[1]

    @property
    def kept(self) -> list[mx.array]:
        """Keys and values of all tokens in their coded form, (1, num_kv_heads, tokens, dim) each."""
        return self._coded or []

    def _full_tokens(self, num_new: int) -> list[int]:
        first, newest = self._coding.first_in_full, self._coding.newest_in_full
        if not first and not newest:
            return []
        end = self.offset + num_new
        recent = max(0, (self.offset // BLOCK - newest + 1) * BLOCK) if newest else end
        return [*range(min(first * BLOCK, end)), *range(max(first * BLOCK, recent), end)]

    def _restored_keys(self, keys: mx.array) -> mx.array:
        centre = self._frame.centre if self._coding.are_keys_centred else mx.zeros_like(self._frame.centre)
        factor = self._frame.factor if self._coding.are_keys_balanced else mx.ones_like(self._frame.factor)
        return self._coding.keys.restore((keys - centre) / factor) * factor + centre


def _joined(old: abc.Sequence[mx.array], new: abc.Sequence[mx.array]) -> list[mx.array]:
    return [mx.concatenate(list(parts), axis=2) for parts in zip(old, new, strict=True)]
