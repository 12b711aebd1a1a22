"""What stands for a model's caches in the pass that finds out what its layers keep and how they attend."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import ArraysCache, ChunkedKVCache, RotatingKVCache

from ...cache.kv import LayerShape
from ...cache.states import StateArray, StateSpec
from .array_attention import AttentionParams
from .latent_layer import LatentRow
from .paged_layers import AttentionSpec
from .shared_layer import OwnedKeys


class KeepOrder:
    """Counts, in a probed pass, how often something has been kept."""

    def __init__(self) -> None:
        self.num_kept = 0


class LayerProbe:
    """Stands for a layer's cache, and notes the attention that the layer asks for."""

    offset = 0

    def __init__(self, layer: int, model_cache: Any, kv_bits: int, order: KeepOrder) -> None:
        """model_cache: the cache that the model itself would use. Raises ValueError for one of chunks."""
        if isinstance(model_cache, ChunkedKVCache):
            raise ValueError("attention within chunks of the context")
        self._layer = layer
        self._kv_bits = kv_bits
        self._order = order
        self.window: int | None = model_cache.max_size if isinstance(model_cache, RotatingKVCache) else None
        self._fetched: tuple[mx.array, mx.array] | None = None
        self._spec: AttentionSpec | None = None
        self._num_kept = 0  # when the layer attended
        self._readers_num_kept: list[int] = []  # when each other layer attended

    def make_mask(self, *_: object, window_size: int | None = None, **__: object) -> int | None:
        """Return the window in place of a mask; a cache that rotates has a window as well."""
        return window_size or self.window

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Note what the layer keeps; return it, so that `keys` are recognised."""
        self._order.num_kept += 1
        self._fetched = OwnedKeys.of(keys, self), values
        return self._fetched

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """Return what `update_and_fetch` has returned."""
        if self._fetched is None:
            raise ValueError("keys and values that a later layer keeps")
        return self._fetched

    def answer(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams, mask: Any
    ) -> mx.array:
        """Note the attention; return zeros. `mask` is a window, or a mask of the model's own."""
        window = mask if isinstance(mask, int) else self.window
        if self._fetched is None:
            raise ValueError("a layer attends before it keeps keys and values")
        if self._spec is None:
            self._num_kept = self._order.num_kept
            self._spec = self._attention(queries, keys, values, replace(params, window=window))
        elif keys is not self._fetched[0] or window != self._spec.window:
            raise ValueError("a layer sees other tokens, of keys that it shares, than their owner")
        else:
            self._readers_num_kept.append(self._order.num_kept)
        return mx.zeros((*queries.shape[:3], values.shape[3]), queries.dtype)

    def _attention(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> AttentionSpec:
        assert self._fetched is not None, "the layer has kept something"
        kept, rest = self._fetched
        num_heads = queries.shape[1]
        # A model may change keys that it has fetched: what it attends to is kept, unless it is latent.
        is_latent = keys is not kept and kept.shape[1] == 1 and keys.shape[1:] != kept.shape[1:]
        if is_latent and params.window is None and params.sinks is None:
            rank = kept.shape[3]
            shape = LayerShape(1, rank + rest.shape[3], rank, kept.dtype, self._kv_bits, values_in_keys=True)
            row = LatentRow.of(kept, rest)
            return AttentionSpec(self._layer, shape, num_heads, 1.0, None, False, latent_row=row)
        shape = LayerShape(keys.shape[1], keys.shape[3], values.shape[3], keys.dtype, self._kv_bits)
        has_sinks = params.sinks is not None
        return AttentionSpec(self._layer, shape, num_heads, params.scale, params.window, has_sinks)

    def spec(self) -> AttentionSpec:
        """Return the layer's attention, after the pass. Raises ValueError if the layer never attended."""
        if self._spec is None:
            raise ValueError("a layer keeps no keys and values")
        last = self._order.num_kept
        return replace(
            self._spec,
            is_last=self._num_kept == last,
            is_shared=bool(self._readers_num_kept),
            are_readers_last=all(num_kept == last for num_kept in self._readers_num_kept),
        )


class StateProbe(ArraysCache):
    """Stands for a recurrent layer's cache."""

    def __init__(self, model_cache: Any, order: KeepOrder) -> None:
        """model_cache: the cache that the model itself would use."""
        super().__init__(len(model_cache.cache))
        self._order = order

    def __setitem__(self, index: int, array: mx.array) -> None:
        self._order.num_kept += 1
        arrays: Any = self.cache
        arrays[index] = array

    def spec(self) -> StateSpec:
        """Return what the layer keeps of a sequence, after the pass."""
        arrays = [None if array is None else StateArray(array.shape[1:], array.dtype) for array in self.cache]
        return StateSpec(tuple(arrays))


@contextmanager
def reading_layers(model: nn.Module) -> Iterator[dict[type[nn.Module], None]]:
    """Find, while `model` runs on StateProbes, the classes of its layers that take states themselves.

    Yields a dictionary that has them when the run has ended: of all layers that are given a state's cache,
    those that do not give it to another layer.
    """
    found: dict[type[nn.Module], None] = {}
    open_calls: list[set[int]] = []  # of each layer that runs, outermost first, the caches that it was given

    def watched(theirs: Callable[..., Any]) -> Callable[..., Any]:
        def call(layer: nn.Module, *args: Any, **more: Any) -> Any:
            given = {id(each) for each in (*args, *more.values()) if isinstance(each, StateProbe)}
            for outer in open_calls:
                outer -= given
            open_calls.append(given)
            try:
                return theirs(layer, *args, **more)
            finally:
                if open_calls.pop():
                    found[type(layer)] = None

        return call

    kinds = {type(module) for module in model.modules()}
    calls = {kind: kind.__call__ for kind in kinds if "__call__" in vars(kind)}
    try:
        for kind, theirs in calls.items():
            kind.__call__ = watched(theirs)
        yield found
    finally:
        for kind, theirs in calls.items():
            kind.__call__ = theirs
