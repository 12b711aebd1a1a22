"""How an mlx-lm model, unchanged, comes to attend to paged KV.

Every mlx-lm model calls `scaled_dot_product_attention` as a name of its own module, with its cache object as
an argument. `install()` puts a dispatcher in that name's place; a `PagedLayer` in the cache's place then gets
the new keys and values together with the queries, and answers for the whole attention.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import RotatingKVCache, make_prompt_cache

from ...cache.kv import ArrayPools, HostPools, LayerShape, Slots
from ..step import SlotRange
from .array_attention import AttentionParams, attend_arrays, attend_slice
from .host_attention import HostAttention
from .kernels.batch_tables import TableSource
from .kernels.paged_kernels import Options, PagedKernels, fenced
from .shared_prefixes import SharedPrefix, last_slots, shared_prefixes

ATTENTION = "scaled_dot_product_attention"


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """What one attention layer of a model asks of its cache."""

    layer: int
    shape: LayerShape
    num_heads: int
    scale: float
    window: int | None  # tokens that a query sees, itself included; None for all
    has_sinks: bool


@dataclass(frozen=True)
class ForwardContext:
    """One forward pass: where each row stands, what it reads, where the new KV goes."""

    offsets: mx.array  # (rows,) position of each row's first query
    slots: Slots  # (rows * length,) slots of the new tokens, row by row
    slot_ranges: list[
        tuple[SlotRange, ...]
    ]  # for each row the slots of all its tokens, the new ones included
    samples: bool  # whether anything is read from the model's output; a prefill chunk only leaves KV

    @cached_property
    def reads(self) -> list[SharedPrefix]:
        """The rows' slots, those that rows share listed once."""
        return shared_prefixes(self.slot_ranges)

    def within(self, window: int | None) -> "ForwardContext":
        """The same without the slots that no query sees under `window`; made once for all layers alike."""
        if window is None:
            return self
        if window not in self._within:
            count = window + len(self.slots) // len(self.slot_ranges) - 1
            self._within[window] = replace(
                self, slot_ranges=[last_slots(slot_ranges, count) for slot_ranges in self.slot_ranges]
            )
        return self._within[window]

    @cached_property
    def _within(self) -> dict[int, "ForwardContext"]:
        return {}


class PagedLayer:
    """Stands for one layer's cache during one pass; `attend` is the rest of the attention."""

    def __init__(self, spec: AttentionSpec, offsets: mx.array) -> None:
        """offsets: (rows,) position of each row's first query."""
        self._layer = spec.layer
        self.window = spec.window
        self.offset = offsets

    def make_mask(self, *_: object, **__: object) -> None:
        """No mask: attention is causal by itself, and knows its window."""

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Pass the new keys and values through, to `attend`."""
        return keys, values

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        """Store the new keys and values, both (rows, kv_heads, length, dim), and attend to all of them."""
        raise NotImplementedError


class ArrayLayer(PagedLayer):
    """A layer over MLX pools; lazy."""

    def __init__(self, spec: AttentionSpec, context: ForwardContext, pools: ArrayPools) -> None:
        super().__init__(spec, context.offsets)
        self._this = context
        self._pools = pools

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        pools, layer = self._pools, self._layer
        pools.write(layer, self._this.slots, _by_head(keys), _by_head(values))
        return attend_arrays(queries, pools.keys[layer], pools.values[layer], self._this.slot_ranges, params)


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
        self._pools = pools
        self._kernels = kernels
        self._tables = tables

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        pools, layer = self._pools, self._layer
        both, options = (pools.keys[layer], pools.values[layer]), Options(params, pools.write_fences[layer])
        queries = queries.astype(keys.dtype)  # some models widen them; the kernels sum in float32 anyway
        out, pools.write_fences[layer] = self._kernels.decode(
            queries, (keys, values), both, self._tables, options
        )
        return out


class KernelPrefill(PagedLayer):
    """The same for a slice of a prompt."""

    def __init__(
        self,
        spec: AttentionSpec,
        context: ForwardContext,
        slots: mx.array,
        pools: ArrayPools,
        kernels: PagedKernels,
    ) -> None:
        """slots: the slice's, as the kernels take them."""
        super().__init__(spec, context.offsets)
        self._this = context
        self._slots = slots
        self._pools = pools
        self._kernels = kernels

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        pools, layer = self._pools, self._layer
        both = pools.keys[layer], pools.values[layer]
        done = pools.write_fences[layer] = self._kernels.append(
            (keys, values), both, self._slots, pools.write_fences[layer]
        )
        (slot_ranges,) = self._this.within(self.window).slot_ranges
        k, v = self._kernels.read(both, slot_ranges, done)
        return attend_slice(fenced(queries, done), k[None], v[None], params)


def kernel_slots(context: ForwardContext) -> mx.array:
    """Where a prompt's slice is stored; eight or more."""
    return mx.array(np.resize(context.slots, max(8, len(context.slots))))


class HostLayer(PagedLayer):
    """A layer over NumPy pools; evaluates what it needs at once."""

    def __init__(
        self, spec: AttentionSpec, context: ForwardContext, pools: HostPools, attention: HostAttention
    ) -> None:
        super().__init__(spec, context.offsets)
        self._this = context
        self._pools = pools
        self._attention = attention

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        pools, layer = self._pools, self._layer
        is_read = self._this.samples or layer + 1 < len(pools.keys)
        mx.eval(keys, values, *([queries] if is_read else []))
        pools.write(layer, self._this.slots, np.asarray(_by_head(keys)), np.asarray(_by_head(values)))
        if not is_read:  # the last layer of a prefill chunk: its KV is all that is wanted
            return mx.zeros((*queries.shape[:3], values.shape[3]), queries.dtype)
        k, v, reads = pools.keys[layer], pools.values[layer], self._this.within(self.window).reads
        return mx.array(self._attention.attend(np.asarray(queries), k, v, reads, params))


def _by_head(rows: mx.array) -> mx.array:
    """(rows, kv_heads, length, dim) -> (kv_heads, rows * length, dim)"""
    _, num_heads, _, dim = rows.shape
    return rows.swapaxes(0, 1).reshape(num_heads, -1, dim)


class _Probe:
    """A cache that notes what its layer asks of it."""

    offset = 0

    def __init__(self, layer: int, model_cache: Any) -> None:
        """model_cache: the cache that the model itself would use."""
        self._layer = layer
        rotates = isinstance(model_cache, RotatingKVCache)
        self._rotation: int | None = model_cache.max_size if rotates else None
        self.spec: AttentionSpec | None = None

    def make_mask(self, *_: object, window_size: int | None = None, **__: object) -> int | None:
        """The window stands for the mask; a cache that rotates is one as well."""
        return window_size or self._rotation

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return keys, values

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        shape = LayerShape(keys.shape[1], keys.shape[3], values.shape[3], keys.dtype)
        window = params.window or self._rotation
        has_sinks = params.sinks is not None
        self.spec = AttentionSpec(self._layer, shape, queries.shape[1], params.scale, window, has_sinks)
        return mx.zeros((*queries.shape[:3], values.shape[3]), queries.dtype)


def probe(model: nn.Module, kv_bits: int = 16) -> list[AttentionSpec]:
    """What each layer of `model` asks of its cache; computes nothing, but installs the dispatcher.

    kv_bits: to be kept of each element of KV.
    Raises ValueError when a cache's layer does not attend to keys and values of its own.
    """
    install(model)
    probes = [_Probe(layer, cache) for layer, cache in enumerate(make_prompt_cache(model))]
    model(mx.zeros((1, 2), mx.int32), cache=probes)
    if any(probe.spec is None for probe in probes):
        raise ValueError("a layer keeps no keys and values")
    found = [probe.spec for probe in probes if probe.spec is not None]
    return [replace(spec, shape=replace(spec.shape, kv_bits=kv_bits)) for spec in found]


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
        sinks = more.get("sinks")
        if isinstance(cache, PagedLayer):
            return cache.attend(queries, keys, values, AttentionParams(scale, cache.window, sinks))
        if isinstance(cache, _Probe):
            window = mask if isinstance(mask, int) else None  # a model's own mask is left to the self-check
            return cache.attend(queries, keys, values, AttentionParams(scale, window, sinks))
        return attention(queries, keys, values, cache=cache, scale=scale, mask=mask, **more)

    return dispatched
