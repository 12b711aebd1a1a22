"""The kernels that copy rows of recurrent states out of their slots and into them, in place."""

from collections.abc import Callable

import mlx.core as mx

from ...cache.kv import MIN_KERNEL_ELEMENTS
from ..attention.kernels.layer_kernels import Launch
from ..attention.kernels.source import THREADS, Kernel

STATE_READ = Kernel("state_read", ("pool", "slots", "write_fence"), ("state_rows", "next_fence"))
STATE_WRITE = Kernel("state_write", ("state_rows", "pool", "slots", "write_fence"), ("next_fence",))

PIECES = 4
"""Vectors that a thread copies."""


class StateMover:
    """Launches the kernels; lazy. Each launch takes the pool's last write fence and returns the next."""

    def __init__(self, launcher: Callable[[Kernel, float], Launch]) -> None:
        """launcher: declares a kernel to MLX, as PagedKernels does."""
        self._reader, self._writer = launcher(STATE_READ, 0.0), launcher(STATE_WRITE, 0.0)

    def read(
        self, pool: mx.array, slots: mx.array, num_rows: int, write_fence: mx.array
    ) -> tuple[mx.array, mx.array]:
        """Return the states of `num_rows` slots, and the next fence. slots: see `slot_index`."""
        template, groups = _division(pool)
        rows, next_fence = self._reader(
            inputs=[pool, slots, write_fence],
            template=template,
            grid=(groups * THREADS, num_rows, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(num_rows, *pool.shape[1:]), (MIN_KERNEL_ELEMENTS,)],
            output_dtypes=[pool.dtype, mx.float32],
        )
        return rows, next_fence

    def write(self, pool: mx.array, slots: mx.array, rows: mx.array, write_fence: mx.array) -> mx.array:
        """Keep `rows` in their slots; return the next fence. slots: see `slot_index`."""
        template, groups = _division(pool)
        (next_fence,) = self._writer(
            inputs=[rows, pool, slots, write_fence],
            template=template,
            grid=(groups * THREADS, len(rows), 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(MIN_KERNEL_ELEMENTS,)],
            output_dtypes=[mx.float32],
        )
        return next_fence


def slot_index(slots: list[int]) -> mx.array:
    """Return slots as kernels take them: int32, with zeros that are not read up to MIN_KERNEL_ELEMENTS."""
    return mx.array(slots + [0] * (MIN_KERNEL_ELEMENTS - len(slots)), mx.int32)


def _division(pool: mx.array) -> tuple[list[tuple[str, object]], int]:
    """Return the kernels' constants, and the number of thread groups that share a row."""
    size = pool.size // len(pool)
    vector = next(n for n in (8, 4, 2, 1) if size % n == 0 and n * pool.dtype.size <= 16)
    groups = -(-size // (vector * PIECES * THREADS))
    return [("T", pool.dtype), ("SIZE", size), ("VECTOR", vector), ("PIECES", PIECES)], groups
