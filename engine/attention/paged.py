"""Lets an unchanged mlx-lm model attend to paged KV.

Every mlx-lm model calls `scaled_dot_product_attention` as a name of its own module, with its cache object as
an argument. `install()` puts a dispatcher in that name's place. A `PagedLayer` in the cache's place then gets
the new keys and values together with the queries, and computes the whole attention.
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

from ...cache.kv import MIN_KERNEL_ELEMENTS, ArrayPools, HostPools, LayerShape, Slots
from ..step import SlotRange
from .array_attention import AttentionParams, attend_arrays, attend_slice
from .host_attention import HostAttention
from .kernels.batch_tables import TableSource
from .kernels.paged_kernels import LayerPools, PagedKernels, fenced
from .shared_prefixes import SharedPrefix, last_slots, shared_prefixes

ATTENTION = "scaled_dot_product_attention"
"""The function that the modules of mlx-lm's models import and call."""


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """What one attention layer of a model asks of its cache, in every forward pass."""

    layer: int
    shape: LayerShape
    num_heads: int
    scale: float
    window: int | None  # tokens that a query sees, itself included; None for all
    has_sinks: bool


@dataclass(frozen=True)
class ForwardContext:
    """One forward pass: where each row stands, which slots it reads, where the new KV is stored.

    slot_ranges: for each row the slots of all its tokens, the new ones included.
    """

    offsets: mx.array  # (rows,) position of each row's first query
    slots: Slots  # (rows * length,) slots of the new tokens, row by row
    slot_ranges: list[tuple[SlotRange, ...]]
    samples: bool  # whether the model's output is used; a prefill chunk only leaves KV

    @cached_property
    def prefixes(self) -> list[SharedPrefix]:
        """The rows' slots; those that several rows share are listed once."""
        return shared_prefixes(self.slot_ranges)

    def within(self, window: int | None) -> "ForwardContext":
        """Return the context without the slots that no query sees under `window`.

        It is made once for all layers of the same window.
        """
        if window is None:
            return self
        if window not in self._within:
            count = window + len(self.slots) // len(self.slot_ranges) - 1
            visible = [last_slots(slot_ranges, count) for slot_ranges in self.slot_ranges]
            self._within[window] = replace(self, slot_ranges=visible)
        return self._within[window]

    @cached_property
    def _within(self) -> dict[int, "ForwardContext"]:
        return {}


class PagedLayer:
    """Stands for one layer's cache during one forward pass, and computes the layer's attention."""

    def __init__(self, spec: AttentionSpec, offsets: mx.array) -> None:
        """offsets: (rows,) position of each row's first query."""
        self._layer = spec.layer
        self.window = spec.window
        self.offset = offsets

    def make_mask(self, *_: object, **__: object) -> None:
        """Return no mask: `attend` is causal and applies the layer's window by itself."""

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Return the new keys and values as they are; the model passes them on to `attend`."""
        return keys, values

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        """Store the new keys and values, (rows, kv_heads, length, dim), and attend to all of the rows' KV."""
        raise NotImplementedError


class ArrayLayer(PagedLayer):
    """A layer over MLX pools, in plain MLX; lazy."""

    def __init__(self, spec: AttentionSpec, context: ForwardContext, pools: ArrayPools) -> None:
        super().__init__(spec, context.offsets)
        self._context = context
        self._pools = pools

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        """Store the new keys and values, and attend in plain MLX; see PagedLayer."""
        pools, layer = self._pools, self._layer
        pools.write(layer, self._context.slots, _by_head(keys), _by_head(values))
        return attend_arrays(
            queries, pools.keys[layer], pools.values[layer], self._context.slot_ranges, params
        )


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
        """Attend by the kernels, which store the new keys and values as well; see PagedLayer."""
        pools = LayerPools.of(self._pools, self._layer)
        queries = queries.astype(keys.dtype)  # some models widen them; the kernels sum in float32 anyway
        out, next_fence = self._kernels.decode(queries, (keys, values), pools, self._tables, params)
        self._pools.write_fences[self._layer] = next_fence
        return out


class KernelPrefill(PagedLayer):
    """A prompt slice's layer over MLX pools that kernels read and write in place; lazy."""

    def __init__(
        self,
        spec: AttentionSpec,
        context: ForwardContext,
        slots: mx.array,
        pools: ArrayPools,
        kernels: PagedKernels,
    ) -> None:
        """slots: as `kernel_slots` returns them."""
        super().__init__(spec, context.offsets)
        self._context = context
        self._slots = slots
        self._pools = pools
        self._kernels = kernels

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        """Store the new keys and values by a kernel, and attend with MLX's own attention; see PagedLayer."""
        pools = LayerPools.of(self._pools, self._layer)
        next_fence = self._kernels.append((keys, values), pools, self._slots)
        self._pools.write_fences[self._layer] = next_fence
        (slot_ranges,) = self._context.within(self.window).slot_ranges
        k, v = self._kernels.read(pools._replace(write_fence=next_fence), slot_ranges)
        return attend_slice(fenced(queries, next_fence), k[None], v[None], params)


def kernel_slots(context: ForwardContext) -> mx.array:
    """Return the slots of a prompt's slice, int32, (max(MIN_KERNEL_ELEMENTS, n),); those after n repeat."""
    return mx.array(np.resize(context.slots, max(MIN_KERNEL_ELEMENTS, len(context.slots))))


class HostLayer(PagedLayer):
    """A layer over NumPy pools; evaluates its inputs and computes at once."""

    def __init__(
        self, spec: AttentionSpec, context: ForwardContext, pools: HostPools, attention: HostAttention
    ) -> None:
        super().__init__(spec, context.offsets)
        self._context = context
        self._pools = pools
        self._attention = attention

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        """Store the new keys and values, and attend in NumPy; see PagedLayer."""
        pools, layer = self._pools, self._layer
        is_read = self._context.samples or layer + 1 < len(pools.keys)
        mx.eval(keys, values, *([queries] if is_read else []))
        pools.write(layer, self._context.slots, np.asarray(_by_head(keys)), np.asarray(_by_head(values)))
        if not is_read:  # the last layer of a prefill chunk: only its KV is needed
            return mx.zeros((*queries.shape[:3], values.shape[3]), queries.dtype)
        k, v, prefixes = pools.keys[layer], pools.values[layer], self._context.within(self.window).prefixes
        return mx.array(self._attention.attend(np.asarray(queries), k, v, prefixes, params))


def _by_head(rows: mx.array) -> mx.array:
    """(rows, kv_heads, length, dim) -> (kv_heads, rows * length, dim)"""
    _, num_heads, _, dim = rows.shape
    return rows.swapaxes(0, 1).reshape(num_heads, -1, dim)


@dataclass(frozen=True, slots=True)
class PagedModel:
    """An mlx-lm model that attends to paged KV, and what a run of it has shown."""

    model: nn.Module
    layers: list[AttentionSpec]
    vocab_size: int  # size of the logits' last axis

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one token's KV takes over all layers. Raises ValueError, see Packing."""
        return sum(spec.shape.bytes_per_token for spec in self.layers)


class _Probe:
    """A cache that notes what its layer asks of it."""

    offset = 0

    def __init__(self, layer: int, model_cache: Any, kv_bits: int) -> None:
        """model_cache: the cache that the model itself would use."""
        self._layer = layer
        self._kv_bits = kv_bits
        rotates = isinstance(model_cache, RotatingKVCache)
        self._rotation: int | None = model_cache.max_size if rotates else None
        self.spec: AttentionSpec | None = None

    def make_mask(self, *_: object, window_size: int | None = None, **__: object) -> int | None:
        """Return the window in place of a mask; a cache that rotates has a window as well."""
        return window_size or self._rotation

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return keys, values

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        shape = LayerShape(keys.shape[1], keys.shape[3], values.shape[3], keys.dtype, self._kv_bits)
        window = params.window or self._rotation
        has_sinks = params.sinks is not None
        self.spec = AttentionSpec(self._layer, shape, queries.shape[1], params.scale, window, has_sinks)
        return mx.zeros((*queries.shape[:3], values.shape[3]), queries.dtype)


def probe(model: nn.Module, kv_bits: int) -> PagedModel:
    """Let `model` attend through PagedLayers, and run it on two tokens to see what it is made of.

    Attention gives zeros in that run; all else is computed, so that weights of wrong shapes raise here.

    kv_bits: to be kept of each element of KV, see EngineConfig.
    Raises ValueError when a layer does not attend to keys and values of its own.
    """
    install(model)
    probes = [_Probe(layer, cache, kv_bits) for layer, cache in enumerate(make_prompt_cache(model))]
    logits = model(mx.zeros((1, 2), mx.int32), cache=probes)
    layers = [probe.spec for probe in probes if probe.spec is not None]
    if len(layers) < len(probes):
        raise ValueError("a layer keeps no keys and values")
    mx.eval(logits)
    return PagedModel(model, layers, logits.shape[-1])


def install(model: nn.Module) -> None:
    """Let the Python modules of `model`'s layers attend through a PagedLayer, where that is their cache.

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
