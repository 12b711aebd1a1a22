"""What a model does to the heads of queries and keys before it attends, left by decode passes to one kernel.

A model normalises each head (some models do) and rotates it by its token's position: up to four operations of
MLX's a layer, and copies before them where queries and keys are parts of one matrix. `Deferrable` stands for
such a norm or rotation in the model. While a decode pass defers them it returns its input as it is, and the
layer that attends gives queries and keys to the kernel first (`kernels/rotate.h`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ...cache.kv import MIN_KERNEL_ELEMENTS
from .kernels.source import THREADS, Kernel

ROTATE = Kernel(
    "rotate",
    (
        *("queries", "new_keys", "new_values", "query_weight", "key_weight"),
        *("positions", "periods", "numbers"),
    ),
    ("rotated_queries", "rotated_keys", "copied_values"),
    takes_gaps=True,
)

THREE = tuple[mx.array, mx.array, mx.array]
"""Queries, keys and values."""


class Number(IntEnum):
    """Elements of the kernel's `numbers`; the kernel calls them NUMBER_LOG2_BASE and so on."""

    LOG2_BASE = 0  # of the pairs' frequencies, where no periods are given
    SCALE = 1  # factor of positions
    QUERY_EPS = 2
    KEY_EPS = 3


class Call(NamedTuple):
    """One call of a Deferrable in a trial pass."""

    x: mx.array
    offset: Any
    result: mx.array


class Deferral:
    """Says whether the norms and rotations of a model are left to the kernel at this moment."""

    def __init__(self) -> None:
        self.positions: mx.array | None = None  # what the kernel rotates by; None while nothing is left to it
        self.calls: dict[int, list[Call]] | None = None  # by id of the Deferrable; noted where not None

    @contextmanager
    def on(self, positions: mx.array) -> Iterator[None]:
        """Leave norms and rotations to the kernel in the block.

        positions: of the pass's rows, int32, MIN_KERNEL_ELEMENTS or more: Metal would compile the kernel
        anew whenever the number of rows passed that number.
        """
        self.positions = positions
        try:
            yield
        finally:
            self.positions = None


class Deferrable(nn.Module):
    """Stands for a norm or rotation of queries or keys in a model."""

    def __init__(self, own: Any, deferral: Deferral) -> None:
        """own: the model's own norm or rotation."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.own = own
        self._deferral = deferral

    def __call__(self, x: mx.array, *args: Any, **options: Any) -> mx.array:
        """Return what the model's own module returns, or `x` while it is left to the kernel."""
        if self._deferral.positions is not None:
            return x
        result: mx.array = self.own(x, *args, **options)
        if self._deferral.calls is not None:
            offset = options.get("offset", args[0] if args else None)
            self._deferral.calls.setdefault(id(self), []).append(Call(x, offset, result))
        return result


@dataclass(frozen=True, eq=False, slots=True)
class Rotation:
    """The norms and the rotation of one layer's queries and keys, as the kernel computes them."""

    deferral: Deferral
    num_rotated: int  # elements of a head that are rotated, the first ones
    is_traditional: bool  # whether pairs are neighbours
    numbers: mx.array  # see Number
    periods: mx.array | None  # of each pair, in tokens / 2 pi; None where they are powers of a base
    weights: tuple[mx.array, mx.array] | None  # factors of normalised queries and keys; None without norms

    @classmethod
    def of(cls, deferral: Deferral, rope: Any, norms: tuple[Any, Any] | None) -> "Rotation":
        """Describe the modules of a model: `rope`, an nn.RoPE or Llama3RoPE, and the norms before it."""
        periods = getattr(rope, "_freqs", None)
        eps = (0.0, 0.0) if norms is None else (norms[0].eps, norms[1].eps)
        log2_base = 0.0 if periods is not None else float(mx.log2(mx.array(rope.base, mx.float32)))
        scale = 1.0 if periods is not None else rope.scale
        numbers = mx.array([log2_base, scale, *eps] + [0.0] * (MIN_KERNEL_ELEMENTS - len(Number)))
        if periods is not None:
            periods = periods.astype(mx.float32)
            mx.eval(periods)  # else a compiled pass would compute them each time
        return cls(
            deferral,
            rope.dims,
            rope.traditional,
            numbers,
            periods,
            None if norms is None else (norms[0].weight, norms[1].weight),
        )

    def apply(self, launch: Callable[..., list[mx.array]], three: THREE, positions: mx.array) -> THREE:
        """Return queries and keys normalised and rotated, and values, all without gaps.

        launch: launches ROTATE. three: queries, keys and values, (rows, heads or kv_heads, 1, dim).
        positions: (rows or more,), see Deferral.on.
        """
        queries, keys, values = three
        num_rows, num_heads, _, dim = queries.shape
        query_weight, key_weight = self.weights or (self.numbers, self.numbers)
        periods = self.numbers if self.periods is None else self.periods
        rotated_queries, rotated_keys, copied_values = launch(
            inputs=[queries, keys, values, query_weight, key_weight, positions, periods, self.numbers],
            template=[
                *(("T", queries.dtype), ("DIM", dim), ("ROTATED", self.num_rotated)),
                *(("TRADITIONAL", self.is_traditional), ("HAS_NORMS", self.weights is not None)),
                ("HAS_PERIODS", self.periods is not None),
                *((f"NUMBER_{number.name}", number.value) for number in Number),
            ],
            grid=(THREADS * num_rows, num_heads + 2 * keys.shape[1], 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[queries.shape, keys.shape, values.shape],
            output_dtypes=[queries.dtype] * 3,
        )
        return rotated_queries, rotated_keys, copied_values
