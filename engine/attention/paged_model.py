"""Lets an unchanged mlx-lm model attend to paged KV, and finds out the attention of its layers.

Every mlx-lm model calls `scaled_dot_product_attention` as a name of its own module, with its cache object as
an argument. `install()` replaces that function by a dispatcher. A `PagedLayer` passed as the cache then gets
the new keys and values together with the queries, and computes the whole attention.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import RotatingKVCache, make_prompt_cache

from ...cache.kv import LayerShape
from .array_attention import AttentionParams
from .paged_layers import AttentionSpec, PagedLayer
from .rotation import Deferral

ATTENTION = "scaled_dot_product_attention"
"""The function that the modules of mlx-lm's models import and call."""


@dataclass(frozen=True, slots=True)
class PagedModel:
    """An mlx-lm model that attends to paged KV, and the facts that `probe` found by running it."""

    model: nn.Module
    layers: list[AttentionSpec]
    vocab_size: int  # size of the logits' last axis
    deferral: Deferral = field(default_factory=Deferral)  # of norms and rotations, see `defer_rotations`

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one token's KV takes over all layers. Raises ValueError, see Packing."""
        return sum(spec.shape.bytes_per_token for spec in self.layers)


class _Probe:
    """Stands for a layer's cache in `probe`, and notes the attention that the layer asks for."""

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
    """Let `model` attend through PagedLayers, and run it on two tokens to learn its layers' attention.

    Attention gives zeros in that run; all else is computed, so that weights of wrong shapes raise here.
    kv_bits: bits in which each element of KV is kept, see EngineConfig.
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
    """Let the Python modules of `model`'s layers attend through a PagedLayer, where one is passed as cache.

    Changes the name `scaled_dot_product_attention` in those modules, once; other caches work as before.
    """
    names = {type(module).__module__ for module in model.modules()}
    for module in (sys.modules[name] for name in names):
        attention = getattr(module, ATTENTION, None)
        if attention is not None and not hasattr(attention, "__wrapped__"):
            setattr(module, ATTENTION, _dispatch(attention))


def _dispatch(attention: Callable[..., mx.array]) -> Callable[..., mx.array]:
    @wraps(attention)
    def dispatched(  # noqa: PLR0913  (mlx-lm's own parameters)
        queries: mx.array, keys: mx.array, values: mx.array, cache: Any, scale: float, mask: Any, **more: Any
    ) -> mx.array:
        sinks = more.get("sinks")
        if isinstance(cache, PagedLayer):
            return cache.attend(queries, keys, values, AttentionParams(scale, cache.window, sinks))
        if isinstance(cache, _Probe):
            window = (
                mask if isinstance(mask, int) else None
            )  # a mask array of the model's own: the self-check judges it
            return cache.attend(queries, keys, values, AttentionParams(scale, window, sinks))
        return attention(queries, keys, values, cache=cache, scale=scale, mask=mask, **more)

    return dispatched
