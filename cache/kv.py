"""The KV arrays: one pool of keys and one of values for each attention layer.

A pool has the shape `(num_kv_heads, num_slots, head_dim)`; slot `s` belongs to block `s // BLOCK_SIZE`. It is
allocated once and written in place; a contiguous run of slots is a view of it.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from .blocks import BLOCK_SIZE

Slots = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one attention layer keeps for each token."""

    num_kv_heads: int
    key_dim: int
    value_dim: int
    dtype: mx.Dtype

    @property
    def bytes_per_token(self) -> int:
        return self.num_kv_heads * (self.key_dim + self.value_dim) * self.dtype.size


class ArrayPools:
    """Pools as MLX arrays, on whatever device MLX uses."""

    def __init__(self, shapes: list[LayerShape], num_blocks: int) -> None:
        num_slots = num_blocks * BLOCK_SIZE
        self.keys = [mx.zeros((s.num_kv_heads, num_slots, s.key_dim), s.dtype) for s in shapes]
        self.values = [mx.zeros((s.num_kv_heads, num_slots, s.value_dim), s.dtype) for s in shapes]
        # For kernels that write in place, unknown to MLX: by layer, what the next reader must wait for.
        self.done = [mx.zeros((8,)) for _ in shapes]

    @classmethod
    def of(cls, arrays: list[mx.array], done: list[mx.array]) -> "ArrayPools":
        """Pools that consist of these arrays, in the order of `arrays()`."""
        pools = cls([], 0)
        pools.keys, pools.values = arrays[: len(done)], arrays[len(done) :]
        pools.done = list(done)
        return pools

    def write(self, layer: int, slots: Slots, keys: mx.array, values: mx.array) -> None:
        """Store `keys` and `values`, both (num_kv_heads, len(slots), dim), in `slots` of `layer`; lazy."""
        index = mx.array(slots)
        self.keys[layer][:, index] = keys
        self.values[layer][:, index] = values

    def arrays(self) -> list[mx.array]:
        """Every pool; evaluating them makes the writes so far real."""
        return self.keys + self.values


class HostPools:
    """Pools as NumPy arrays, for MLX's CPU device, where NumPy attends several times faster than MLX.

    Pages that were never written take no memory.
    """

    def __init__(self, shapes: list[LayerShape], num_blocks: int) -> None:
        num_slots = num_blocks * BLOCK_SIZE
        self.keys = [np.empty((s.num_kv_heads, num_slots, s.key_dim), np.float32) for s in shapes]
        self.values = [np.empty((s.num_kv_heads, num_slots, s.value_dim), np.float32) for s in shapes]

    def write(self, layer: int, slots: Slots, keys: Any, values: Any) -> None:
        """Store `keys` and `values`, both (num_kv_heads, len(slots), dim), in `slots` of `layer`."""
        self.keys[layer][:, slots] = keys
        self.values[layer][:, slots] = values
