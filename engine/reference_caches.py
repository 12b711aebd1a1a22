"""mlx-lm's own caches as the judge of paged attention needs them: with a check's windows and quantised KV."""

from typing import Any, cast

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, CacheList, RotatingKVCache, make_prompt_cache

from ..cache.kv import LayerShape
from ..cache.packing import UNQUANTISED
from .attention.cache_structure import leaves
from .attention.paged_layers import AttentionSpec
from .attention.paged_model import PagedModel


class _WindowCache(RotatingKVCache):
    """mlx-lm's cache, but its mask has the cache's window in place of the model's."""

    def make_mask(self, N: int, window_size: int | None = None, return_array: bool = False) -> Any:
        return super().make_mask(N, self.max_size, return_array)


class _QuantisingCache:
    """Wraps a cache: keys and values are quantised and restored before they go in."""

    def __init__(self, cache: Any, shape: LayerShape) -> None:
        self._cache, self._shape = cache, shape

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Any:
        rank = keys.shape[-1]
        if rank < self._shape.key_dim:  # a row of latent attention, quantised as a whole
            row = self._restored(mx.concatenate([keys, values], axis=-1))
            return self._cache.update_and_fetch(row[..., :rank], row[..., rank:])
        own_values = self._restored(values) if values.size else values  # an index may have none
        return self._cache.update_and_fetch(self._restored(keys), own_values)

    def _restored(self, elements: mx.array) -> mx.array:
        packing = self._shape.packing(elements.shape[-1])
        assert packing is not None
        restored: mx.array = packing.unpack(mx, packing.pack(mx, elements), elements.dtype)
        return restored


def reference_caches(paged: PagedModel) -> list[Any]:
    """Make mlx-lm's own caches, with the windows and the precision of `paged.layers`."""
    parts = list(leaves(make_prompt_cache(paged.model)))
    states = [cache for cache in parts if isinstance(cache, ArraysCache)]
    layers = [cache for cache in parts if not isinstance(cache, ArraysCache)]
    own = [_reference_cache(cache, spec) for cache, spec in zip(layers, paged.layers, strict=True)]
    return paged.structure.build(own, states, lambda caches: cast(Any, CacheList)(*caches))


def _reference_cache(cache: Any, spec: AttentionSpec) -> Any:
    own = cache if spec.window is None else cast(Any, _WindowCache)(spec.window)
    return own if spec.shape.kv_bits == UNQUANTISED else _QuantisingCache(own, spec.shape)
