"""Objects that stand for a layer's cache and compute its attention: a class for each implementation."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from ...cache.kv import ArrayPools, HostPools, LayerShape, Slots
from ..step import SlotRange
from .array_attention import AttentionParams, attend_arrays
from .host_attention import Floats, HostAttention
from .kernels.paged_kernels import PagedKernels
from .rotation import Rotation
from .shared_prefixes import SharedPrefix, last_slots, shared_prefixes

Rows = TypeVar("Rows", mx.array, Floats)


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """The attention of one layer of a model, the same in every forward pass."""

    layer: int
    shape: LayerShape
    num_heads: int
    scale: float
    window: int | None  # tokens that a query sees, itself included; None for all
    has_sinks: bool
    chunk: int | None = None  # tokens before a pass that a layer which attends in chunks still needs
    is_shared: bool = False  # whether other layers attend to these keys and values as well
    # Whether no later layer keeps anything of the tokens: of a prompt's slice the output is then not used.
    is_last: bool = field(default=False, compare=False)
    are_readers_last: bool = field(default=False, compare=False)  # the same of the others' outputs
    latent_row: Any = field(default=None, compare=False)  # a LatentRow where the attention is latent
    rotation: Rotation | None = field(default=None, compare=False)  # what decode passes leave to the kernel

    @property
    def kept_window(self) -> int | None:
        """The newest tokens of a sequence, the next one included, that a pass may need; None for all."""
        return self.window if self.chunk is None else self.chunk + 1


@dataclass(frozen=True)
class ForwardContext:
    """One forward pass: each row's position, the slots that it reads, and the slots of its new KV.

    slot_ranges: for each row the slots of all its tokens, the new ones included.
    windowed: the same pass in the pools of layers that keep each row's newest tokens only; None without such.
    """

    offsets: mx.array  # (rows,) position of each row's first query
    slots: Slots  # (rows * length,) slots of the new tokens, row by row
    slot_ranges: list[tuple[SlotRange, ...]]
    samples: bool  # whether the model's output is used; a prefill chunk only writes KV
    windowed: "ForwardContext | None" = None

    def of(self, spec: AttentionSpec) -> "ForwardContext":
        """Return the context for the pools of a layer."""
        return self if spec.kept_window is None or self.windowed is None else self.windowed

    @property
    def window_ranges(self) -> list[tuple[SlotRange, ...]] | None:
        """The slot ranges of `windowed`."""
        return None if self.windowed is None else self.windowed.slot_ranges

    @cached_property
    def prefixes(self) -> list[SharedPrefix]:
        """The rows' slots; slots that several rows share are listed once."""
        return shared_prefixes(self.slot_ranges)

    def within(self, window: int | None) -> "ForwardContext":
        """Return the context without the slots that no query sees under `window`.

        Made once for all layers of the same window.
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
        """Return no mask: `attend` itself is causal and applies the layer's window."""

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Return the new keys and values as they are; the model passes them on to `attend`."""
        return keys, values

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        """Store the new keys and values, (rows, kv_heads, length, dim), and attend to all of the rows' KV."""
        raise NotImplementedError

    def attend_again(self, queries: mx.array, params: AttentionParams) -> mx.array:
        """Attend with another layer's queries to the rows' KV, after `attend` has stored the new part."""
        raise NotImplementedError

    def answer(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams, mask: Any
    ) -> mx.array:
        """Do what the model's call of attention asks for; `mask` is the model's own."""
        return self.attend(queries, keys, values, params)

    def divided(self) -> list[tuple["PagedLayer", slice]]:
        """Return what the model's last layer is called with in this layer's place, each with its rows.

        An empty list where it is called once for all rows; see MixedLayer.
        """
        return []


class ArrayLayer(PagedLayer):
    """A layer over MLX pools, in plain MLX; lazy."""

    def __init__(self, spec: AttentionSpec, context: ForwardContext, pools: ArrayPools) -> None:
        super().__init__(spec, context.offsets)
        self._context = context.of(spec)
        self._pools = pools

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        """Store the new keys and values, and attend in plain MLX; see PagedLayer."""
        self._pools.write(self._layer, self._context.slots, by_head(keys), by_head(values))
        return self.attend_again(queries, params)

    def attend_again(self, queries: mx.array, params: AttentionParams) -> mx.array:
        """Attend in plain MLX; see PagedLayer."""
        keys, values = self._pools.keys[self._layer], self._pools.values[self._layer]
        return attend_arrays(queries, keys, values, self._context.slot_ranges, params)


def served_layers(specs: list[AttentionSpec], kernels: PagedKernels | None) -> list[bool]:
    """Return of each layer whether `kernels` compute its attention; plain MLX computes the others'.

    Layers that share a pool are all served or none: MLX does not see what kernels write.
    """
    unserved = {spec.layer for spec in specs if not (kernels and kernels.serves(spec.shape, spec.num_heads))}
    return [spec.layer not in unserved for spec in specs]


class HostLayer(PagedLayer):
    """A layer over NumPy pools; evaluates its inputs and computes at once."""

    def __init__(
        self, spec: AttentionSpec, context: ForwardContext, pools: HostPools, attention: HostAttention
    ) -> None:
        super().__init__(spec, context.offsets)
        self._is_last, self._are_readers_last = spec.is_last, spec.are_readers_last
        self._value_dim = spec.shape.value_dim
        self._context = context.of(spec)
        self._pools = pools
        self._attention = attention

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        """Store the new keys and values, and attend in NumPy; see PagedLayer."""
        mx.eval(keys, values, *([queries] if self.is_read else []))
        self.store(np.asarray(keys), np.asarray(values))
        if not self.is_read:
            return mx.zeros((*queries.shape[:3], values.shape[3]), queries.dtype)
        return mx.array(self.read(np.asarray(queries), params))

    def attend_again(self, queries: mx.array, params: AttentionParams) -> mx.array:
        """Attend in NumPy; see PagedLayer."""
        if self._are_readers_last and not self._context.samples:
            return mx.zeros((*queries.shape[:3], self._value_dim), queries.dtype)
        return mx.array(self.read(np.asarray(queries), params))

    @property
    def is_read(self) -> bool:
        """Whether the attention's output is used; of a prompt's slice, the last layer only writes KV."""
        return self._context.samples or not self._is_last

    def store(self, keys: Floats, values: Floats) -> None:
        """Store the new keys and values, (rows, kv_heads, length, dim)."""
        self._pools.write(self._layer, self._context.slots, by_head(keys), by_head(values))

    def read(self, queries: Floats, params: AttentionParams) -> Floats:
        """Attend to the rows' KV, see PagedLayer; the new KV must be stored."""
        prefixes = self._context.within(self.window).prefixes
        keys, values = self._pools.keys[self._layer], self._pools.values[self._layer]
        return self._attention.attend(queries, keys, values, prefixes, params)


def by_head(rows: Rows) -> Rows:
    """Return (rows, kv_heads, length, dim) as pools take it, (kv_heads, rows * length, dim)."""
    num_rows, num_heads, length, dim = rows.shape
    return rows.swapaxes(0, 1).reshape(num_heads, num_rows * length, dim)
