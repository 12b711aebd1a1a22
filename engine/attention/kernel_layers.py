"""Objects that stand for a layer's cache where kernels read and write the pools; see `paged_layers`."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ...cache.kv import MIN_KERNEL_ELEMENTS, ArrayPools, Slots
from .array_attention import AttentionParams, attend_slice
from .kernels.batch_tables import SliceTables, TableSource
from .kernels.layer_pools import LayerPools, fenced
from .kernels.paged_kernels import PagedKernels
from .paged_layers import AttentionSpec, ForwardContext, PagedLayer


class KernelDecode(PagedLayer):
    """A decode batch's layer over MLX pools that kernels read and write in place; lazy."""

    def __init__(
        self,
        spec: AttentionSpec,
        offsets: mx.array,
        pools: ArrayPools,
        kernels: PagedKernels,
        tables: TableSource,
    ) -> None:
        super().__init__(spec, offsets)
        self._rotation = spec.rotation
        self._pools = pools
        self._kernels = kernels
        self._tables = tables
        self._new: tuple[mx.array, mx.array] | None = None

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        """Attend by the kernels, which store the new keys and values as well; see PagedLayer."""
        # Some models widen queries, or have values of another type; the kernels sum in float32 anyway.
        queries, values = queries.astype(keys.dtype), values.astype(keys.dtype)
        positions = None if self._rotation is None else self._rotation.deferral.positions
        if self._rotation is not None and positions is not None:
            queries, keys, values = self._kernels.rotate(self._rotation, (queries, keys, values), positions)
        self._new = keys, values
        return self.attend_again(queries, params)

    def attend_again(self, queries: mx.array, params: AttentionParams) -> mx.array:
        """Attend by the kernels, which store the same keys and values again; see PagedLayer."""
        assert self._new is not None, "the new keys and values are known"
        pools, queries = LayerPools.of(self._pools, self._layer), queries.astype(self._new[0].dtype)
        out, next_fence = self._kernels.decode(queries, self._new, pools, self._tables, params)
        self._pools.write_fences[self._layer] = next_fence
        return out


class KernelPrefill(PagedLayer):
    """A prompt slice's layer over MLX pools that kernels read and write in place; lazy."""

    def __init__(
        self,
        spec: AttentionSpec,
        offsets: mx.array,
        slots: "SliceSlots",
        pools: ArrayPools,
        kernels: PagedKernels,
    ) -> None:
        super().__init__(spec, offsets)
        self._is_last, self._are_readers_last = spec.is_last, spec.are_readers_last
        self._dtype = spec.shape.dtype
        self._slots = slots.for_layer(spec)
        self._pools = pools
        self._kernels = kernels

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        """Store the new keys and values by a kernel, and attend by kernels or by MLX; see PagedLayer."""
        pools = LayerPools.of(self._pools, self._layer)
        new = keys, values.astype(keys.dtype)
        self._pools.write_fences[self._layer] = self._kernels.append(new, pools, self._slots.written)
        return self._read(queries, params, self._is_last)

    def attend_again(self, queries: mx.array, params: AttentionParams) -> mx.array:
        """Attend by kernels or by MLX; see PagedLayer."""
        return self._read(queries, params, self._are_readers_last)

    def _read(self, queries: mx.array, params: AttentionParams, is_last: bool) -> mx.array:
        kernels, queries = self._kernels, queries.astype(self._dtype)
        pools = LayerPools.of(self._pools, self._layer)
        if kernels.attends_slices(queries, pools, params):
            out, read_fence = kernels.attend_slice(queries, pools, self._slots.tables, params)
            # The last layer's result is not used, and its attention is not computed unless something waits.
            if not is_last:
                self._pools.write_fences[self._layer] = read_fence
            return out
        assert self._slots.context is not None, "a pass whose slots are known"
        (slot_ranges,) = self._slots.context.within(self.window).slot_ranges
        k, v = kernels.read(pools, slot_ranges)
        return attend_slice(fenced(queries, pools.write_fence), k[None], v[None], params)


@dataclass(frozen=True, slots=True)
class SliceSlots:
    """The slots of a prompt's slice, for the kernels of all layers."""

    written: mx.array  # see `written_slots`
    tables: TableSource
    context: ForwardContext | None = None  # None while a graph is traced: kernels attend in all its layers
    windowed: "SliceSlots | None" = None  # see ForwardContext

    @classmethod
    def of(cls, context: ForwardContext) -> "SliceSlots":
        """Return the slots of a pass that is no graph."""
        length, windowed = len(context.slots), context.windowed
        return cls(
            written_slots(context.slots, length),
            SliceTables(context.slot_ranges[0], length),
            context,
            None if windowed is None else cls.of(windowed),
        )

    def for_layer(self, spec: AttentionSpec) -> "SliceSlots":
        """Return the slots in the pools of a layer."""
        return self if spec.kept_window is None or self.windowed is None else self.windowed


def written_slots(slots: Slots, length: int) -> mx.array:
    """Return the slots of a slice's tokens: int32, (max(MIN_KERNEL_ELEMENTS, length),), -1 for padding."""
    padded = np.full(max(MIN_KERNEL_ELEMENTS, length), -1, np.int32)
    padded[: len(slots)] = slots
    return mx.array(padded)
