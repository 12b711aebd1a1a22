"""The pools of recurrent states on Metal and CUDA: kernels copy rows out of their slots and into them.

MLX copies a whole pool at every write while an earlier pass is on the device. These kernels write in place.
MLX does not see that, so a chain of small arrays, a fence for each pool, orders all reads and writes of it:
each takes the last fence and returns the next.
"""

import math
from collections.abc import Callable

import mlx.core as mx

from ...cache.kv import MIN_KERNEL_ELEMENTS
from ...cache.states import ArrayStates, StateArray, StateRows
from ..attention.kernels.layer_kernels import Launch
from ..attention.kernels.source import THREADS, Kernel

STATE_READ = Kernel("state_read", ("pool", "slots", "write_fence"), ("state_rows", "next_fence"))
STATE_WRITE = Kernel("state_write", ("state_rows", "pool", "slots", "write_fence"), ("next_fence",))

PIECES = 4
"""Vectors that a thread copies."""


class KernelStates(ArrayStates):
    """Pools that are written in place; lazy."""

    def __init__(self, arrays: list[StateArray], num_slots: int, launcher: Callable[[Kernel, float], Launch]):
        """Make pools of zeros. launcher: declares a kernel to MLX, as PagedKernels does."""
        super().__init__(arrays, num_slots)
        self._reader, self._writer = launcher(STATE_READ, 0.0), launcher(STATE_WRITE, 0.0)
        self._fences = [mx.zeros((MIN_KERNEL_ELEMENTS,)) for _ in arrays]

    def _gather(self, slots: list[int]) -> StateRows:
        index, rows = _index(slots), []
        for place, pool in enumerate(self._pools):
            template, groups = _division(pool)
            row, self._fences[place] = self._reader(
                inputs=[pool, index, self._fences[place]],
                template=template,
                grid=(groups * THREADS, len(slots), 1),
                threadgroup=(THREADS, 1, 1),
                output_shapes=[(len(slots), *pool.shape[1:]), (MIN_KERNEL_ELEMENTS,)],
                output_dtypes=[pool.dtype, mx.float32],
            )
            rows.append(row)
        return rows

    def _scatter(self, slots: list[int], rows: StateRows) -> None:
        index = _index(slots)
        for place, (pool, row) in enumerate(zip(self._pools, rows, strict=True)):
            template, groups = _division(pool)
            (self._fences[place],) = self._writer(
                inputs=[row, pool, index, self._fences[place]],
                template=template,
                grid=(groups * THREADS, len(slots), 1),
                threadgroup=(THREADS, 1, 1),
                output_shapes=[(MIN_KERNEL_ELEMENTS,)],
                output_dtypes=[mx.float32],
            )

    def arrays(self) -> list[mx.array]:
        """Return the fences: evaluating them carries out the writes."""
        return self._fences


def are_moved(arrays: list[StateArray]) -> bool:
    """Whether the kernels can move such arrays: a row has the elements that a kernel's argument needs."""
    return all(math.prod(array.shape) >= MIN_KERNEL_ELEMENTS for array in arrays)


def states_agree(arrays: list[StateArray], launcher: Callable[[Kernel, float], Launch]) -> bool:
    """Whether the kernels move random states as MLX does, on this device."""
    ours, theirs = KernelStates(arrays, 3, launcher), ArrayStates(arrays, 3)
    for turn, (before, after) in enumerate([([0], [1]), ([1, 0], [2, 0]), ([2], [1]), ([0, 2], [2, 0])]):
        drawn = [
            mx.random.normal((len(after), *each.shape), key=mx.random.key(turn)).astype(each.dtype)
            for each in arrays
        ]
        for pools in (ours, theirs):
            read = pools.read(before, len(after))
            pools.write(after, [new + old for new, old in zip(drawn, read, strict=True)])
    found, expected = ours.read([0, 1, 2]), theirs.read([0, 1, 2])
    return all(bool((a == b).all()) for a, b in zip(found, expected, strict=True))


def _index(slots: list[int]) -> mx.array:
    return mx.array(slots + [0] * (MIN_KERNEL_ELEMENTS - len(slots)), mx.int32)


def _division(pool: mx.array) -> tuple[list[tuple[str, object]], int]:
    """Return the kernels' constants, and the number of thread groups that share a row."""
    size = pool.size // len(pool)
    vector = next(n for n in (8, 4, 2, 1) if size % n == 0 and n * pool.dtype.size <= 16)
    groups = -(-size // (vector * PIECES * THREADS))
    return [("T", pool.dtype), ("SIZE", size), ("VECTOR", vector), ("PIECES", PIECES)], groups
