"""One layer's pools as kernels take them, and how their rows look."""

from typing import Any, NamedTuple

import mlx.core as mx

from ....cache.kv import ArrayPools, LayerShape, Pool
from .geometry import Geometry


class LayerPools(NamedTuple):
    """One layer's pools, and the array that orders their readers and writers."""

    keys: Pool
    values: Pool
    write_fence: mx.array  # zeros, (MIN_KERNEL_ELEMENTS,), from the kernel that wrote to the pools last

    @property
    def values_in_keys(self) -> bool:
        """Whether a value is the first elements of its key: both pools are the same array."""
        return self.keys.rows is self.values.rows

    @property
    def rows(self) -> tuple[mx.array, mx.array]:
        """The arrays of keys and of values, as kernels take them."""
        return self.keys.rows, self.values.rows

    @classmethod
    def of(cls, pools: ArrayPools, layer: int) -> "LayerPools":
        """Return the pools of `layer` as they are now."""
        return cls(pools.keys[layer], pools.values[layer], pools.write_fences[layer])


def stored_geometry(shape: LayerShape, num_heads: int) -> Geometry:
    """Return the geometry of a layer whose queries have the type of its keys."""
    packing, dims = shape.packing(shape.key_dim), (shape.key_dim, shape.value_dim)
    group = num_heads // shape.num_kv_heads
    return Geometry(dims[0], group, shape.dtype.size, packing, dims[1], shape.values_in_keys)


def pool_geometry(pools: LayerPools, group: int, dtype: mx.Dtype) -> Geometry:
    """Return the geometry of a layer with `group` query heads of type `dtype` to a KV head."""
    dim, value_dim = pools.keys.shape[2], pools.values.shape[2]
    return Geometry(dim, group, dtype.size, pools.keys.packing, value_dim, pools.values_in_keys)


def row_template(pools: LayerPools, dtype: mx.Dtype) -> list[tuple[str, Any]]:
    """Return the compile-time constants that describe the pools' rows to a kernel that copies them."""
    constants = pool_geometry(pools, 1, dtype).constants
    if pools.values_in_keys:  # nothing is copied to them or from them
        constants |= {"VALUE_DIM": 0, "VALUES_IN_KEYS": 0}
    names = ("DIM", "VALUE_DIM", "VALUES_IN_KEYS", "BITS", "UNIT", "VALUE_UNIT", "VECTOR")
    return [("T", dtype), *((name, constants[name]) for name in names)]


def fenced(array: mx.array, write_fence: mx.array) -> mx.array:
    """Make `array` depend on `write_fence` (zeros).

    Nothing computed from the result runs before the kernel that returned `write_fence`.
    """
    return array + write_fence[:1].astype(array.dtype)  # write_fence[0] would be a kernel of its own
