"""The pools of a runner, and the layers that stand for the model's caches on them."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx

from ..cache.kv import ArrayPools, HostPools
from .attention.fetching_layer import FetchingLayer
from .attention.host_attention import HostAttention
from .attention.kernel_layers import KernelDecode, KernelPrefill, SliceSlots
from .attention.kernels.batch_tables import BatchTables
from .attention.kernels.paged_kernels import PagedKernels
from .attention.paged_layers import (
    ArrayLayer,
    AttentionSpec,
    ForwardContext,
    HostLayer,
    PagedLayer,
    served_layers,
)
from .attention.paged_model import PagedModel
from .recurrent.kernel_states import make_states
from .transfers.pool_bytes import PoolBytes


class Capacity(NamedTuple):
    """How much the pools of a runner hold."""

    num_blocks: int  # of KV, in each layer's pools
    num_state_slots: int = 0  # recurrent states; 0 for models without such states
    num_window_blocks: int | None = None  # of layers that forget what their windows passed; None without


class PagedCaches:
    """A model's KV and recurrent states in pools, and who attends to them."""

    def __init__(
        self, paged: PagedModel, capacity: Capacity, on_host: bool, kernels: PagedKernels | None
    ) -> None:
        """Allocate pools of that capacity.

        on_host, kernels: see Runner.
        """
        self._paged = paged
        self._capacity = capacity
        self._host = HostAttention(num_threads=os.cpu_count() or 1) if on_host else None
        self._are_served = served_layers(paged.layers, None if on_host else kernels)
        self.kernels = kernels if any(self._are_served) else None
        self.reset()

    def reset(self) -> None:
        """Drop all KV and states, and allocate the pools anew."""
        (num_blocks, num_slots, of_windows), specs = self._capacity, self._paged.layers
        are_windowed = [bool(spec.kept_window and of_windows) for spec in specs]
        sizes = [of_windows if spec.kept_window and of_windows else num_blocks for spec in specs]
        self.pools = (HostPools if self._host else ArrayPools)([spec.shape for spec in specs], sizes)
        self.states = make_states(self._paged, num_slots, self._host is not None, self.kernels)
        self.pool_bytes = PoolBytes(self.pools, self.states, are_windowed)

    @property
    def all_by_kernels(self) -> bool:
        """Whether kernels compute the attention of every layer."""
        return all(self._are_served)

    @property
    def attention_backend(self) -> str:
        """The implementation that computes attention, for people to read."""
        if self._paged.is_fetched:
            return "the model's own, row by row"
        if self.kernels is None:
            return "plain MLX" if self._host is None else "NumPy"
        num_layers, num_unserved = len(self._are_served), self._are_served.count(False)
        unserved = f", plain MLX in {num_unserved} of {num_layers} layers" if num_unserved else ""
        return self.kernels.name + unserved

    def layers(self, context: ForwardContext) -> list[Any]:
        """Make what stands for the model's caches in a forward pass, or in a part of one."""
        pools, specs, kernels = self.pools, self._paged.layers, self.kernels
        if self._paged.is_fetched:
            return [FetchingLayer(spec, context, pools) for spec in specs]
        if isinstance(pools, HostPools):
            assert self._host is not None
            return [HostLayer(spec, context, pools, self._host) for spec in specs]
        if kernels is None:
            return [ArrayLayer(spec, context, pools) for spec in specs]
        make: Callable[[AttentionSpec], PagedLayer]
        if context.samples:
            tables = BatchTables(context.slot_ranges, context.prefixes, None, context.window_ranges)
            make = partial(KernelDecode, offsets=context.offsets, pools=pools, kernels=kernels, tables=tables)
        else:
            slots = SliceSlots.of(context)
            make = partial(KernelPrefill, offsets=context.offsets, slots=slots, pools=pools, kernels=kernels)
        pairs = zip(specs, self._are_served, strict=True)
        return [make(spec) if is_served else ArrayLayer(spec, context, pools) for spec, is_served in pairs]

    def written_arrays(self) -> list[mx.array]:
        """Return the arrays whose evaluation carries out this step's writes to the pools."""
        if isinstance(self.pools, HostPools):
            return []
        fences = [] if self.kernels is None else self.pools.write_fences
        arrays = [] if self.all_by_kernels else self.pools.arrays()
        return [*fences, *arrays, *self.states.arrays()]
