"""KV blocks and recurrent states as the bytes of a file, and back into the pools.

The contents of a file, one after another, without gaps: for each layer the rows of the order's blocks,
(num_kv_heads, blocks, BLOCK_SIZE, row) of the keys and then of the values (none where these are a part of the
keys); then each array of the recurrent state; then the rows of the window's blocks, for the layers that have
them. Numbers are as the pools hold them, in the machine's own order of bytes.
"""

import math
import sys
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from ...cache.blocks import BLOCK_SIZE
from ...cache.kv import ArrayPools, HostPools, Pool
from ...cache.states import StatePools
from ..served_model import PoolLayout
from ..step import NO_BLOCK, RestoreOrder, SaveOrder

Pools = ArrayPools | HostPools
Order = SaveOrder | RestoreOrder

VERSION = 1
"""Of the layout; a file of another one is not read."""


class PoolBytes:
    """Reads and writes the rows of one model's pools."""

    def __init__(self, pools: Pools, states: StatePools, are_windowed: list[bool]) -> None:
        """are_windowed: for each layer, whether its blocks are those of windows."""
        self._pools, self._states = pools, states
        pairs = list(zip(pools.keys, pools.values, are_windowed, strict=True))
        self._layers = [index for index, (_, _, is_windowed) in enumerate(pairs) if not is_windowed]
        self._windowed = [index for index, (_, _, is_windowed) in enumerate(pairs) if is_windowed]
        layers = [self._describe(group) for group in (self._layers, self._windowed)]
        arrays = [f"{array.shape} {array.dtype}" for array in states.state_arrays]
        self.layout = PoolLayout(
            f"{VERSION} {sys.byteorder} {BLOCK_SIZE} {layers} {arrays}",
            self._sum_bytes(self._layers),
            sum(array.num_bytes for array in states.state_arrays),
            self._sum_bytes(self._windowed),
        )

    def _describe(self, layers: list[int]) -> list[str]:
        pools = [pool for layer in layers for pool in self._kept(layer)]
        return [f"{pool.rows.shape[0]}x{pool.rows.shape[2]} {pool.dtype} {pool.packing}" for pool in pools]

    def _sum_bytes(self, layers: list[int]) -> int:
        return sum(_block_bytes(pool) for layer in layers for pool in self._kept(layer))

    def num_bytes(self, order: Order) -> int:
        """Return the size of the contents of the file of `order`."""
        layout = self.layout
        state = 0 if order.state_slot is None else layout.state_bytes
        return len(order.blocks) * layout.block_bytes + state + len(order.window) * layout.window_block_bytes

    def copy(self, order: Order) -> list[Any]:
        """Return copies of what `order` names, as arrays of NumPy or lazy ones of MLX, in the file's order.

        Those of MLX are flat and of bytes: to make them so later would wait for the step after this one.
        Kernels that write to the pools in place later do so after the copies are made.
        """
        copies = self._copy_blocks(self._layers, order.blocks)
        if order.state_slot is not None:
            copies += [_flat_bytes(row) for row in self._states.read([order.state_slot])]
        return copies + self._copy_blocks(self._windowed, order.window)

    def paste(self, order: Order, contents: memoryview) -> None:
        """Write a file's contents to where `order` says; carried out when this returns.

        No step may be under way on the device. Raises ValueError where the contents have another size.
        """
        if len(contents) != self.num_bytes(order):
            raise ValueError(f"{len(contents)} bytes instead of {self.num_bytes(order)}")
        parts = _FileContents(contents)
        self._paste_blocks(self._layers, order.blocks, parts)
        if order.state_slot is not None:
            rows = []
            for array in self._states.state_arrays:
                row_bytes = np.frombuffer(parts.take(array.num_bytes), np.uint8)
                rows.append(mx.array(row_bytes).view(array.dtype).reshape(1, *array.shape))
            self._states.write([order.state_slot], rows)
            mx.eval(self._states.arrays())
        self._paste_blocks(self._windowed, order.window, parts)

    def _kept(self, layer: int) -> list[Pool]:
        """Return the pools of `layer` that are arrays of their own."""
        keys, values = self._pools.keys[layer], self._pools.values[layer]
        return [keys] if values.rows is keys.rows else [keys, values]

    def _copy_blocks(self, layers: list[int], blocks: tuple[int, ...]) -> list[Any]:
        if not blocks:
            return []
        if isinstance(self._pools, HostPools):
            return [_by_block(pool)[:, list(blocks)] for layer in layers for pool in self._kept(layer)]
        index, copies, fences = mx.array(blocks), [], self._pools.write_fences
        for layer in layers:
            copied = [_flat_bytes(_by_block(pool)[:, index]) for pool in self._kept(layer)]
            fences[layer] = _after(fences[layer], copied[-1])
            copies += copied
        return copies

    def _paste_blocks(self, layers: list[int], blocks: tuple[int, ...], parts: "_FileContents") -> None:
        places = [place for place, block in enumerate(blocks) if block != NO_BLOCK]
        wanted = [blocks[place] for place in places]
        if not blocks:
            return
        for layer in layers:
            for pool in self._kept(layer):
                heads, _, width = pool.rows.shape
                part = np.frombuffer(parts.take(len(blocks) * _block_bytes(pool)), np.uint8)
                rows = part.reshape(heads, len(blocks), BLOCK_SIZE, -1)[:, places]
                if isinstance(self._pools, HostPools):
                    _by_block(pool)[:, wanted] = np.ascontiguousarray(rows).view(pool.rows.dtype)
                    continue
                slots = np.add.outer(np.multiply(wanted, BLOCK_SIZE), np.arange(BLOCK_SIZE)).ravel()
                new = mx.array(np.ascontiguousarray(rows)).view(pool.rows.dtype)
                # The pool's only holder is `pool`: MLX writes into its memory, without a copy of it.
                pool.rows[:, mx.array(slots.astype(np.int32))] = new.reshape(heads, len(slots), width)
                mx.eval(pool.rows)


class _FileContents:
    """A file's contents, taken part by part."""

    def __init__(self, contents: memoryview) -> None:
        self._rest = contents

    def take(self, num_bytes: int) -> memoryview:
        part, self._rest = self._rest[:num_bytes], self._rest[num_bytes:]
        return part


def as_bytes(array: Any) -> memoryview:
    """Return the bytes of what `copy` has returned, evaluated."""
    flat: npt.NDArray[Any] = np.ascontiguousarray(np.asarray(array)).reshape(-1)
    return flat.view(np.uint8).data


def _flat_bytes(array: mx.array) -> mx.array:
    return mx.contiguous(array).reshape(-1).view(mx.uint8)


def _by_block(pool: Pool) -> Any:
    """Return the rows of `pool`, (num_kv_heads, blocks, BLOCK_SIZE, row), without a copy of them."""
    heads, _, width = pool.rows.shape
    return pool.rows.reshape(heads, -1, BLOCK_SIZE, width)


def _block_bytes(pool: Pool) -> int:
    heads, _, width = pool.rows.shape
    return math.prod((heads, BLOCK_SIZE, width)) * int(pool.rows.nbytes // pool.rows.size)


def _after(write_fence: mx.array, copied: mx.array) -> mx.array:
    """Return a fence that is computed after `copied`: MLX does not know that kernels write to the pools."""
    return write_fence + 0 * copied[:1].astype(write_fence.dtype)
