"""The KV arrays: one pool of keys and one pool of values for each attention layer.

Latent attention (MLA) keeps one array for both: a token's values are the first elements of its keys.

A pool holds floats of the shape `(num_kv_heads, num_slots, head_dim)`; slot `s` belongs to block
`s // BLOCK_SIZE`. A pool is allocated once and written in place. Where KV keeps the model's own type, a
contiguous range of slots is a view of the pool; where KV is quantised (`packing.py`), reading a range
unpacks a copy.
"""

import contextlib
import math
import mmap
from collections import abc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from .blocks import BLOCK_SIZE
from .packing import Packing, find_packing, row_bytes

Slots = npt.NDArray[np.int32]

MIN_KERNEL_ELEMENTS = 8
"""Fewest elements of an array that a kernel reads through a `device` pointer.

MLX puts a Metal kernel's inputs of fewer elements into the constant address space, where such a pointer
cannot read.
"""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one attention layer keeps for each token."""

    num_kv_heads: int
    key_dim: int  # elements of a head's keys
    value_dim: int
    dtype: mx.Dtype  # the model's type
    kv_bits: int  # of an element as it is kept: UNQUANTISED, 8 or 4
    values_in_keys: bool = False  # the values are the first `value_dim` elements of the keys, kept once

    def packing(self, dim: int) -> Packing | None:
        """Return how heads of `dim` elements are quantised, or None. Raises ValueError, see Packing."""
        return find_packing(dim, self.kv_bits, self.dtype.size)

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token's keys and values take. Raises ValueError, see Packing."""
        dims = (self.key_dim,) if self.values_in_keys else (self.key_dim, self.value_dim)
        return self.num_kv_heads * sum(row_bytes(dim, self.kv_bits, self.dtype.size) for dim in dims)


Sizes = list[tuple[LayerShape, int]]
"""Each layer's shape, and how many blocks its pools have."""


class Pool:
    """One layer's keys or values. Indexing gives and takes floats; `rows` are the stored floats or bytes."""

    def __init__(self, rows: Any, dim: int, packing: Packing | None, dtype: Any) -> None:
        """Wrap an array of MLX or NumPy.

        rows: (num_kv_heads, num_slots, dim) floats, or (num_kv_heads, num_slots, row_bytes) bytes.
        dim: elements of a row that the pool reads: the first ones, where `packing` or the floats have more.
        packing: how the rows are quantised, None for floats.
        dtype: type of the floats, of the module that the rows belong to.
        """
        self.rows, self.packing, self.dtype = rows, packing, dtype
        self.shape = (*rows.shape[:-1], dim)
        self._is_part = dim < (rows.shape[-1] if packing is None else packing.dim)
        self._xp: Any = mx if isinstance(rows, mx.array) else np

    def head(self, head: int) -> "Pool":
        """Return the pool of one head, (num_slots, dim)."""
        return Pool(self.rows[head], self.shape[-1], self.packing, self.dtype)

    def first(self, dim: int) -> "Pool":
        """Return the pool of the first `dim` elements of each row, over the same array."""
        return Pool(self.rows, dim, self.packing, self.dtype)

    def __getitem__(self, index: Any) -> Any:
        rows = self.rows[index]
        elements = rows if self.packing is None else self.packing.unpack(self._xp, rows, self.dtype)
        return elements[..., : self.shape[-1]] if self._is_part else elements

    def __setitem__(self, index: Any, elements: Any) -> None:
        self.rows[index] = elements if self.packing is None else self.packing.pack(self._xp, elements)


def _sizes(shapes: list[LayerShape], num_blocks: int | abc.Sequence[int]) -> Sizes:
    """Return each layer's shape and its number of blocks."""
    each = [num_blocks] * len(shapes) if isinstance(num_blocks, int) else num_blocks
    return list(zip(shapes, each, strict=True))


def _values(sizes: Sizes, keys: list[Pool], make: Callable[[LayerShape, int], Pool]) -> list[Pool]:
    """Return the layers' pools of values: a part of their keys, or what `make` makes."""
    return [
        own_keys.first(shape.value_dim) if shape.values_in_keys else make(shape, num_blocks)
        for (shape, num_blocks), own_keys in zip(sizes, keys, strict=True)
    ]


class ArrayPools:
    """The pools of all layers as MLX arrays, on the device that MLX uses."""

    def __init__(self, shapes: list[LayerShape], num_blocks: int | abc.Sequence[int]) -> None:
        """num_blocks: of all layers' pools, or of each layer's."""
        sizes = _sizes(shapes, num_blocks)
        self.keys = [_zeros(shape, shape.key_dim, size) for shape, size in sizes]
        self.values = _values(sizes, self.keys, lambda shape, size: _zeros(shape, shape.value_dim, size))
        # By layer, zeros returned by the last kernel that wrote to its pools in place. MLX does not know
        # of such writes: a kernel that takes the fence as an input runs after them.
        self.write_fences = [mx.zeros((MIN_KERNEL_ELEMENTS,)) for _ in shapes]

    @classmethod
    def of(
        cls, shapes: list[LayerShape], arrays: list[mx.array], write_fences: list[mx.array]
    ) -> "ArrayPools":
        """Make pools that consist of `arrays`, which are in the order of `arrays()`."""
        pools, rows = cls([], 0), iter(arrays)
        pools.keys = [_pool(next(rows), shape, shape.key_dim) for shape in shapes]
        pools.values = _values(
            _sizes(shapes, 0), pools.keys, lambda shape, _: _pool(next(rows), shape, shape.value_dim)
        )
        pools.write_fences = list(write_fences)
        return pools

    def write(self, layer: int, slots: Slots, keys: mx.array, values: mx.array) -> None:
        """Store `keys` and `values`, both (num_kv_heads, len(slots), dim), in `slots` of `layer`; lazy.

        `values` is not read where the values are a part of the keys.
        """
        index = mx.array(slots)
        self.keys[layer][:, index] = keys
        if self.values[layer].rows is not self.keys[layer].rows:
            self.values[layer][:, index] = values

    def arrays(self) -> list[mx.array]:
        """Return every array, all keys before all values; evaluating them carries out the writes."""
        keys = [pool.rows for pool in self.keys]
        pairs = zip(self.keys, self.values, strict=True)
        return keys + [values.rows for keys, values in pairs if values.rows is not keys.rows]


def _pool(rows: mx.array, shape: LayerShape, dim: int) -> Pool:
    return Pool(rows, dim, shape.packing(dim), shape.dtype)


def _zeros(shape: LayerShape, dim: int, num_blocks: int) -> Pool:
    packing = shape.packing(dim)
    width, dtype = (dim, shape.dtype) if packing is None else (packing.row_bytes, mx.uint8)
    return _pool(mx.zeros((shape.num_kv_heads, num_blocks * BLOCK_SIZE, width), dtype), shape, dim)


class HostPools:
    """The pools of all layers as float32 arrays of NumPy, for MLX's CPU device.

    NumPy attends several times faster there than MLX. Pages that were never written take no memory.
    """

    def __init__(self, shapes: list[LayerShape], num_blocks: int | abc.Sequence[int]) -> None:
        """num_blocks: of all layers' pools, or of each layer's."""
        sizes = _sizes([replace(shape, dtype=mx.float32) for shape in shapes], num_blocks)
        self.keys = [_untouched(shape, shape.key_dim, size) for shape, size in sizes]
        self.values = _values(sizes, self.keys, lambda shape, size: _untouched(shape, shape.value_dim, size))

    def write(self, layer: int, slots: Slots, keys: Any, values: Any) -> None:
        """Store `keys` and `values`, both (num_kv_heads, len(slots), dim), in `slots` of `layer`.

        `values` is not read where the values are a part of the keys.
        """
        self.keys[layer][:, slots] = keys
        if self.values[layer].rows is not self.keys[layer].rows:
            self.values[layer][:, slots] = values


def _untouched(shape: LayerShape, dim: int, num_blocks: int) -> Pool:
    """Make a pool of zeros whose pages are not touched."""
    packing = shape.packing(dim)
    width, dtype = (dim, np.float32) if packing is None else (packing.row_bytes, np.uint8)
    size = (shape.num_kv_heads, num_blocks * BLOCK_SIZE, width)
    rows: npt.NDArray[Any] = np.frombuffer(pages(math.prod(size) * np.dtype(dtype).itemsize), dtype)
    return Pool(rows.reshape(size), dim, packing, np.float32)


def pages(num_bytes: int) -> mmap.mmap:
    """Map memory in small pages.

    NumPy asks for huge pages. Sequences lie far apart in a pool, so that each new one would make the kernel
    write 2 MB of zeros for every head of every layer.
    """
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux
        with contextlib.suppress(OSError):  # a kernel without huge pages refuses it
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return pages
