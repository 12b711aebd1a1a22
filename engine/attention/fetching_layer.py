"""For models whose attention cannot be taken over: caches that give a model the keys and values themselves.

Some models compute attention by hand (Gemma 2 caps its scores), choose tokens by an index (DeepSeek V3.2), or
need one position for all rows of a batch. A `FetchingLayer` does for one sequence what mlx-lm's own cache
does: its position is a number, and what it returns are all keys and values in the order of their tokens,
read from the paged pools. Rows are then computed one at a time: slower, and exact for any model.
"""

from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import ChunkedKVCache, RotatingKVCache, create_attention_mask

from ...cache.kv import ArrayPools, HostPools, LayerShape, Pool
from .layer_probe import KeepOrder
from .paged_layers import AttentionSpec, ForwardContext, by_head
from .shared_prefixes import last_slots


class FetchingLayer:
    """Stands for a layer's cache of one sequence, during one pass."""

    keys: mx.array
    values: mx.array

    def __init__(self, spec: AttentionSpec, context: ForwardContext, pools: ArrayPools | HostPools) -> None:
        """context: of one row."""
        self._context = context.of(spec)
        (self._slot_ranges,) = self._context.slot_ranges
        self._pools = pools
        self._layer = spec.layer
        self._window = spec.window
        total = sum(end - first for first, end in context.slot_ranges[0])
        self.offset: Any = total - len(context.slots)  # models change it and compute with it
        self.start_position = 0 if spec.chunk is None else max(0, self.offset - spec.chunk)

    def maybe_trim_front(self) -> None:
        """Do nothing: what lies further back than a chunk is left out already."""

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:
        """Return the mask that mlx-lm's own cache returns: for `N` new tokens over what is fetched."""
        if self._window is None:
            return create_attention_mask(N, self.offset, return_array, window_size)
        if N == 1:
            return None
        return create_causal_mask(N, min(self.offset, self._window - 1), window_size=self._window)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Store the new keys and values; return those of all tokens that the layer still sees."""
        pools, layer, length = self._pools, self._layer, keys.shape[2]
        new = by_head(keys), by_head(values)
        if isinstance(pools, HostPools):
            mx.eval(*new)
            pools.write(layer, self._context.slots, *(np.asarray(part) for part in new))
        else:
            pools.write(layer, self._context.slots, *new)
        count = self.offset + length - self.start_position
        if self._window is not None:
            count = min(count, self._window + length - 1)
        visible = last_slots(self._slot_ranges, count)
        self.keys, self.values = (_read(pool[layer], visible) for pool in (pools.keys, pools.values))
        self.offset += length
        return self.keys, self.values

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """Return what `update_and_fetch` has returned; models ask for it in layers that keep nothing."""
        return self.keys, self.values


def _read(pool: Pool, slot_ranges: Any) -> mx.array:
    """Return the elements of slots in MLX, (1, kv_heads, tokens, dim)."""
    parts = [mx.array(pool[:, first:end]) for first, end in slot_ranges]
    return (parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1))[None]


class FetchingProbe:
    """Stands for a layer's cache of no tokens yet, and notes what the layer keeps."""

    keys: mx.array
    values: mx.array

    def __init__(self, layer: int, model_cache: Any, kv_bits: int, order: KeepOrder) -> None:
        """model_cache: the cache that the model itself would use."""
        self.offset: Any = 0
        self.start_position = 0
        self._layer = layer
        self._kv_bits = kv_bits
        self._order = order
        self._window = model_cache.max_size if isinstance(model_cache, RotatingKVCache) else None
        self._chunk = model_cache.chunk_size if isinstance(model_cache, ChunkedKVCache) else None
        self._spec: AttentionSpec | None = None

    def maybe_trim_front(self) -> None:
        """Do nothing: there is no token yet."""

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:
        """Return the mask of the first `N` tokens."""
        return create_attention_mask(N, 0, return_array, window_size or self._window)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Note what the layer keeps, and return it."""
        self._order.num_kept += 1
        # Some keep an index of keys alone: values are then the keys again, or have no elements.
        in_keys = values is keys or values.shape[3] == 0
        shape = LayerShape(
            keys.shape[1], keys.shape[3], values.shape[3], keys.dtype, self._kv_bits, values_in_keys=in_keys
        )
        self._spec = AttentionSpec(self._layer, shape, 0, 1.0, self._window, False, chunk=self._chunk)
        self.keys, self.values = keys, values
        self.offset += keys.shape[2]
        return keys, values

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """Return what `update_and_fetch` has returned."""
        return self.keys, self.values

    def spec(self) -> AttentionSpec:
        """Return what the layer keeps, after the pass. Raises ValueError if it kept nothing."""
        if self._spec is None:
            raise ValueError("a layer keeps no keys and values")
        return self._spec
