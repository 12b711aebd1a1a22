"""Codings of keys and values that a pool could keep: what each takes, and what is left of the elements.

A coding is judged before there is any kernel for it, so it restores elements without ever packing them. A
scale or an offset is rounded to the 16 bits, or to the byte, in which it would be kept.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

import mlx.core as mx
import numpy as np

from ...cache.packing import TINY, Packing
from .kv_rotation import default_block, rotation

STEPS_AN_OCTAVE = 8
"""Of a scale that is kept as a byte, its logarithm."""

BEST_STEPS = {1: 1.5958, 2: 0.9957, 3: 0.5860, 4: 0.3352}
"""By bits, the distance of evenly spaced levels that lose least of a normal variable of deviation one.

From Max, Quantizing for Minimum Distortion, 1960.
"""


class Coding(Protocol):
    """How a head's elements are coded, each token by itself if nothing else is said."""

    def bits_per_element(self, dim: int) -> float:
        """Return what an element takes in a head of `dim` elements, scales included."""

    def restore(self, elements: mx.array) -> mx.array:
        """Return what is left of (..., tokens, dim) elements."""


@dataclass(frozen=True)
class Exact:
    """Elements as they are, in 16 bits."""

    def bits_per_element(self, dim: int) -> float:
        """See Coding."""
        return 16.0

    def restore(self, elements: mx.array) -> mx.array:
        """See Coding."""
        return elements


@dataclass(frozen=True)
class Served:
    """The product's own rows, see cache/packing.py."""

    bits: int

    def bits_per_element(self, dim: int) -> float:
        """See Coding."""
        return Packing(dim, self.bits, 2).row_bytes * 8 / dim

    def restore(self, elements: mx.array) -> mx.array:
        """See Coding."""
        packing = Packing(elements.shape[-1], self.bits, elements.dtype.size)
        restored: mx.array = packing.unpack(mx, packing.pack(mx, elements), elements.dtype)
        return restored


@dataclass(frozen=True)
class Affine:
    """Evenly spaced levels from a group's least element to its greatest; a scale and an offset a group."""

    bits: int
    group: int

    def bits_per_element(self, dim: int) -> float:
        """See Coding."""
        return self.bits + 32 / self.group

    def restore(self, elements: mx.array) -> mx.array:
        """See Coding."""
        groups = _grouped(elements, self.group)
        offset = _as_half(groups.min(axis=-1, keepdims=True))
        top = 2**self.bits - 1
        scale = _as_half((groups.max(axis=-1, keepdims=True) - offset) / top)
        codes = mx.clip(mx.round((groups - offset) / mx.maximum(scale, TINY)), 0, top)
        return (codes * scale + offset).reshape(elements.shape)


@dataclass(frozen=True)
class Symmetric:
    """Evenly spaced levels about zero, which is none of them, up to a group's largest; one scale a group."""

    bits: int
    group: int

    def bits_per_element(self, dim: int) -> float:
        """See Coding."""
        return self.bits + 16 / self.group

    def restore(self, elements: mx.array) -> mx.array:
        """See Coding."""
        groups, half = _grouped(elements, self.group), 2 ** (self.bits - 1)
        scale = _as_half(mx.abs(groups).max(axis=-1, keepdims=True) / (half - 0.5))
        codes = mx.clip(mx.floor(groups / mx.maximum(scale, TINY)), -half, half - 1)
        return ((codes + 0.5) * scale).reshape(elements.shape)


@dataclass(frozen=True)
class Fitted:
    """Levels that suit a normal variable, times one scale a group; the group's largest may lie beyond them.

    As in TurboQuant (Zandieh et al., 2025, arXiv 2504.19874): elements that were rotated are nearly normal.
    """

    bits: int
    group: int
    are_even: bool = False  # evenly spaced levels, which need no table; else those of Lloyd and Max
    fit: str = "least squares"  # the scale: that, "deviation" of the group, or "unbiased" products with it
    scale_bits: int = 16  # or 8, the scale's logarithm

    def bits_per_element(self, dim: int) -> float:
        """See Coding."""
        return self.bits + self.scale_bits / self.group

    def restore(self, elements: mx.array) -> mx.array:
        """See Coding."""
        groups = _grouped(elements, self.group)
        deviation = mx.sqrt(mx.square(groups).mean(axis=-1, keepdims=True))
        levels = even_levels(self.bits) if self.are_even else normal_levels(self.bits)
        chosen = _nearest(groups / mx.maximum(deviation, TINY), levels)
        scale = deviation
        if self.fit == "least squares":
            scale = (groups * chosen).sum(axis=-1, keepdims=True)
            scale = scale / mx.square(chosen).sum(axis=-1, keepdims=True)
        elif self.fit == "unbiased":
            products = (groups * chosen).sum(axis=-1, keepdims=True)
            scale = mx.square(groups).sum(axis=-1, keepdims=True) / mx.maximum(products, TINY)
        rounded = _as_half(scale) if self.scale_bits == 16 else _as_byte(scale)
        return (chosen * rounded).reshape(elements.shape)


@dataclass(frozen=True)
class Sketched:
    """One bit less of `Fitted`, and signs of a random projection of what that leaves.

    The sketch makes products with a query unbiased: TurboQuant's second form, with QJL (Zandieh et al.,
    2024).
    """

    bits: int

    def bits_per_element(self, dim: int) -> float:
        """See Coding."""
        return self.bits + 32 / dim

    def restore(self, elements: mx.array) -> mx.array:
        """See Coding."""
        dim = elements.shape[-1]
        first = Fitted(self.bits - 1, dim, fit="deviation").restore(elements)
        rest = elements - first
        projection = mx.array(np.random.default_rng(dim).standard_normal((dim, dim)).astype(np.float32))
        length = _as_half(mx.sqrt(mx.square(rest).sum(axis=-1, keepdims=True)))
        restored: mx.array = first + length * (np.pi / 2) ** 0.5 / dim * (
            mx.sign(rest @ projection) @ projection.T
        )
        return restored


@dataclass(frozen=True)
class ByChannel:
    """`Affine` over the tokens of a block in one channel, in place of the channels of one token.

    As KIVI codes keys (Liu et al., 2024, arXiv 2402.02750). The tokens that fill no block stay as they are.
    """

    bits: int
    tokens: int
    scale_bits: int = 16  # or 8: the scale's logarithm, and the offset in halves of it

    def bits_per_element(self, dim: int) -> float:
        """See Coding."""
        return self.bits + 2 * self.scale_bits / self.tokens

    def restore(self, elements: mx.array) -> mx.array:
        """See Coding."""
        whole = elements.shape[-2] // self.tokens * self.tokens
        if not whole:
            return elements
        turned = elements[..., :whole, :].swapaxes(-1, -2)
        if self.scale_bits == 16:
            coded = Affine(self.bits, self.tokens).restore(turned)
        else:
            coded = self._restored_by_bytes(turned)
        return mx.concatenate([coded.swapaxes(-1, -2), elements[..., whole:, :]], axis=-2)

    def _restored_by_bytes(self, turned: mx.array) -> mx.array:
        groups, top = _grouped(turned, self.tokens), 2**self.bits - 1
        low, high = groups.min(axis=-1, keepdims=True), groups.max(axis=-1, keepdims=True)
        scale = _as_byte((high - low) / top)
        offset = mx.clip(mx.round(low / scale * 2), -128, 127) / 2 * scale
        codes = mx.clip(mx.round((groups - offset) / scale), 0, top)
        return (codes * scale + offset).reshape(turned.shape)


@dataclass(frozen=True)
class Rotated:
    """Another coding of the elements after a rotation."""

    coding: Coding
    block: int = 0  # elements that a rotation mixes; 0 for as many as can be

    def bits_per_element(self, dim: int) -> float:
        """See Coding."""
        return self.coding.bits_per_element(dim)

    def restore(self, elements: mx.array) -> mx.array:
        """See Coding."""
        dim = elements.shape[-1]
        turn = mx.array(rotation(dim, self.block or default_block(dim)))
        restored: mx.array = self.coding.restore(elements @ turn) @ turn.T
        return restored


@lru_cache
def normal_levels(bits: int) -> tuple[float, ...]:
    """Return the levels that lose least of a normal variable of deviation one (Lloyd, 1957; Max, 1960)."""
    levels = even_levels(bits)
    for _ in range(1000):
        borders = [-math.inf, *((low + high) / 2 for low, high in pairwise(levels)), math.inf]
        levels = tuple(_mean_between(low, high) for low, high in pairwise(borders))
    return levels


def _mean_between(low: float, high: float) -> float:
    """Return the mean of a normal variable of deviation one where it lies between two borders."""
    mass = (math.erf(high / 2**0.5) - math.erf(low / 2**0.5)) / 2
    return (math.exp(-low * low / 2) - math.exp(-high * high / 2)) / math.sqrt(2 * math.pi) / mass


def even_levels(bits: int) -> tuple[float, ...]:
    """Return evenly spaced levels for a normal variable of deviation one."""
    return tuple((code - 2 ** (bits - 1) + 0.5) * BEST_STEPS[bits] for code in range(2**bits))


def _nearest(elements: mx.array, levels: tuple[float, ...]) -> mx.array:
    chosen = mx.full(elements.shape, levels[0], elements.dtype)
    for low, high in pairwise(levels):
        chosen = mx.where(elements > (low + high) / 2, high, chosen)
    return chosen


def _grouped(elements: mx.array, group: int) -> mx.array:
    return elements.reshape(*elements.shape[:-1], -1, group)


def _as_half(scale: mx.array) -> mx.array:
    return scale.astype(mx.float16).astype(scale.dtype)


def _as_byte(scale: mx.array) -> mx.array:
    steps = mx.round(mx.log2(mx.maximum(scale, TINY)) * STEPS_AN_OCTAVE)
    return mx.power(2.0, steps / STEPS_AN_OCTAVE)
