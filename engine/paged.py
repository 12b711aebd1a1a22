"""How an mlx-lm model, unchanged, comes to attend to paged KV.

Every mlx-lm model calls `scaled_dot_product_attention` as a name of its own module, with its cache object as
an argument. `install()` puts a dispatcher in that name's place; a `PagedLayer` in the cache's place then gets
the new keys and values together with the queries, and answers for the whole attention.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..cache.kv import ArrayPools, HostPools, LayerShape, Slots
from .attention import attend_arrays
from .host_attention import HostAttention
from .kernels.device import BatchTables, Options, PagedKernels, waiting
from .segments import Segment, segments
from .step import Run

ATTENTION = "scaled_dot_product_attention"


@dataclass(frozen=True)
class Pass:
    """One forward pass: where each row stands, what it reads, where the new KV goes."""

    offsets: mx.array  # (rows,) position of each row's first query
    slots: Slots  # (rows * length,) slots of the new tokens, row by row
    runs: list[tuple[Run, ...]]  # for each row the slots of all its tokens, the new ones included
    samples: bool  # whether anything is read from the model's output; a prefill chunk only leaves KV

    @cached_property
    def reads(self) -> list[Segment]:
        """The rows' slots, those that rows share listed once."""
        return segments(self.runs)


class PagedLayer:
    """Stands for one layer's cache during one pass; `attend` is the rest of the attention."""

    def __init__(self, layer: int, offsets: mx.array) -> None:
        """offsets: (rows,) position of each row's first query."""
        self._layer = layer
        self.offset = offsets

    def make_mask(self, *_: object, window_size: int | None = None, **__: object) -> None:
        """No mask: attention is causal by itself. Raises for a sliding window, not supported for now."""
        if window_size is not None:
            raise NotImplementedError("sliding-window attention")

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Pass the new keys and values through, to `attend`."""
        return keys, values

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
        """Store the new keys and values, both (rows, kv_heads, length, dim), and attend to all of them."""
        raise NotImplementedError


class ArrayLayer(PagedLayer):
    """A layer over MLX pools; lazy."""

    def __init__(self, layer: int, this: Pass, pools: ArrayPools) -> None:
        super().__init__(layer, this.offsets)
        self._this = this
        self._pools = pools

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
        pools, layer = self._pools, self._layer
        pools.write(layer, self._this.slots, _by_head(keys), _by_head(values))
        return attend_arrays(queries, pools.keys[layer], pools.values[layer], self._this.runs, scale)


class KernelDecode(PagedLayer):
    """A decode batch's layer over MLX pools that kernels read and write in place; lazy."""

    def __init__(
        self, layer: int, offsets: mx.array, pools: ArrayPools, kernels: PagedKernels, tables: BatchTables
    ) -> None:
        super().__init__(layer, offsets)
        self._pools = pools
        self._kernels = kernels
        self._tables = tables

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
        pools, layer = self._pools, self._layer
        both, options = (pools.keys[layer], pools.values[layer]), Options(scale, pools.done[layer])
        out, pools.done[layer] = self._kernels.decode(queries, (keys, values), both, self._tables, options)
        return out


class KernelPrefill(PagedLayer):
    """The same for a slice of a prompt."""

    def __init__(
        self, layer: int, this: Pass, slots: mx.array, pools: ArrayPools, kernels: PagedKernels
    ) -> None:
        """slots: the slice's, as the kernels take them."""
        super().__init__(layer, this.offsets)
        self._this = this
        self._slots = slots
        self._pools = pools
        self._kernels = kernels

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
        pools, layer = self._pools, self._layer
        both = pools.keys[layer], pools.values[layer]
        done = pools.done[layer] = self._kernels.append((keys, values), both, self._slots, pools.done[layer])
        (runs,) = self._this.runs
        if len(runs) == 1:  # a view; several are copied together
            (first, end), *_ = runs
            k, v = both[0][None, :, first:end], both[1][None, :, first:end]
        else:
            k, v = self._kernels.gather(both, runs, done)
        mask = "causal" if queries.shape[2] > 1 else None
        queries = waiting(queries, done)
        return mx.fast.scaled_dot_product_attention(queries, k, v, scale=scale, mask=mask)


def kernel_slots(this: Pass) -> mx.array:
    """Where a prompt's slice is stored; eight or more."""
    return mx.array(np.resize(this.slots, max(8, len(this.slots))))


class HostLayer(PagedLayer):
    """A layer over NumPy pools; evaluates what it needs at once."""

    def __init__(self, layer: int, this: Pass, pools: HostPools, attention: HostAttention) -> None:
        super().__init__(layer, this.offsets)
        self._this = this
        self._pools = pools
        self._attention = attention

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
        pools, layer = self._pools, self._layer
        is_read = self._this.samples or layer + 1 < len(pools.keys)
        mx.eval(keys, values, *([queries] if is_read else []))
        pools.write(layer, self._this.slots, np.asarray(_by_head(keys)), np.asarray(_by_head(values)))
        if not is_read:  # the last layer of a prefill chunk: its KV is all that is wanted
            return mx.zeros((*queries.shape[:3], values.shape[3]), queries.dtype)
        k, v, reads = pools.keys[layer], pools.values[layer], self._this.reads
        return mx.array(self._attention.attend(np.asarray(queries), k, v, reads, scale))


def _by_head(rows: mx.array) -> mx.array:
    """(rows, kv_heads, length, dim) -> (kv_heads, rows * length, dim)"""
    _, num_heads, _, dim = rows.shape
    return rows.swapaxes(0, 1).reshape(num_heads, -1, dim)


class _Probe:
    """A cache that notes what its layer would keep, and the names that its model uses."""

    offset = 0

    def __init__(self) -> None:
        self.shape: LayerShape | None = None

    def make_mask(self, *_: object, **__: object) -> None:
        return None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.shape = LayerShape(keys.shape[1], keys.shape[3], values.shape[3], keys.dtype)
        return keys, values


def probe(model: nn.Module) -> list[LayerShape]:
    """What each layer of `model` keeps for a token; computes nothing.

    Raises ValueError when a layer does not store keys and values in its cache.
    """
    probes = [_Probe() for _ in model.layers]
    model(mx.zeros((1, 1), mx.int32), cache=probes)
    if any(probe.shape is None for probe in probes):
        raise ValueError("a layer keeps no keys and values")
    return [probe.shape for probe in probes if probe.shape is not None]


def install(model: nn.Module) -> None:
    """Let the modules that `model` is made of attend through a PagedLayer where they are given one.

    Changes the name `scaled_dot_product_attention` in those modules, once; other caches work as before.
    """
    names = {type(module).__module__ for module in model.modules()}
    for module in (sys.modules[name] for name in names):
        attention = getattr(module, ATTENTION, None)
        if attention is not None and not hasattr(attention, "__wrapped__"):
            setattr(module, ATTENTION, _dispatch(attention))


def _dispatch(attention: Callable[..., mx.array]) -> Callable[..., mx.array]:
    @wraps(attention)
    def dispatched(
        queries: mx.array, keys: mx.array, values: mx.array, cache: Any, scale: float, mask: Any, **more: Any
    ) -> mx.array:
        if not isinstance(cache, PagedLayer):
            return attention(queries, keys, values, cache=cache, scale=scale, mask=mask, **more)
        if more.get("sinks") is not None:
            raise NotImplementedError("attention sinks")
        return cache.attend(queries, keys, values, scale)

    return dispatched
