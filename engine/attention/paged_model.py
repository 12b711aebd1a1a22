"""Lets an unchanged mlx-lm model attend to paged KV, and finds out what its layers keep of each sequence.

Every mlx-lm model calls `scaled_dot_product_attention` as a name of its own module, with its cache object as
an argument. `install()` replaces that function by a dispatcher. A `PagedLayer` passed as the cache then gets
the new keys and values together with the queries, and computes the whole attention. A recurrent layer gets
an ArraysCache whose arrays are the states of the pass's rows, and leaves the new states there.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import ArraysCache, RotatingKVCache, make_prompt_cache

from ...cache.kv import LayerShape
from ...cache.states import StateArray, StateRows, StateSpec
from ..recurrent.pass_functions import PassFunctions
from .array_attention import AttentionParams
from .cache_structure import CacheStructure, leaves
from .paged_layers import AttentionSpec, PagedLayer
from .rotation import Deferral

ATTENTION = "scaled_dot_product_attention"
"""The function that the modules of mlx-lm's models import and call."""


@dataclass(frozen=True, slots=True)
class PagedModel:
    """An mlx-lm model that attends to paged KV, and the facts that `probe` found by running it."""

    model: nn.Module
    structure: CacheStructure
    layers: list[AttentionSpec]  # each cache of keys and values is that of one attention
    states: list[StateSpec]  # of the recurrent layers
    vocab_size: int  # size of the logits' last axis
    deferral: Deferral = field(default_factory=Deferral)  # of norms and rotations, see `defer_rotations`
    functions: PassFunctions = field(default_factory=PassFunctions)  # that `run` puts in place of mlx-lm's

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one token's KV takes over all layers. Raises ValueError, see Packing."""
        return sum(spec.shape.bytes_per_token for spec in self.layers)

    @property
    def state_bytes(self) -> int:
        """Bytes that one sequence's recurrent state takes over all layers; 0 without such layers."""
        return sum(array.num_bytes for array in self.state_arrays)

    @property
    def state_arrays(self) -> list[StateArray]:
        """The arrays of all recurrent layers, in the order of StateRows."""
        return [array for spec in self.states for array in spec.kept]

    def run(
        self, inputs: mx.array, layers: list[Any], states: StateRows | None = None
    ) -> tuple[mx.array, StateRows]:
        """Run the model; return its logits, (rows, length, vocab), and the rows' new states; lazy.

        inputs: (rows, length). layers: what stands for the cache of each attention.
        states: before the inputs; None where these are the rows' first tokens.
        """
        rows = None if states is None else iter(states)
        caches = [_state_cache(spec, rows) for spec in self.states]
        with self.functions:
            logits: mx.array = self.model(inputs, cache=self.structure.build(layers, caches))
        return logits, [array for cache in caches for array in cache.cache if array is not None]


def _state_cache(spec: StateSpec, rows: Iterator[mx.array] | None) -> Any:
    """Make the cache of a recurrent layer, with its arrays from `rows`; None where there are none yet."""
    cache: Any = ArraysCache(len(spec.arrays))
    if rows is not None:
        cache.cache = [None if array is None else next(rows) for array in spec.arrays]
    return cache


class _Order:
    """Counts, in a probed pass, how often something has been kept."""

    def __init__(self) -> None:
        self.num_kept = 0


class _Probe:
    """Stands for a layer's cache in `probe`, and notes the attention that the layer asks for."""

    offset = 0

    def __init__(self, layer: int, model_cache: Any, kv_bits: int, order: _Order) -> None:
        """model_cache: the cache that the model itself would use."""
        self._layer = layer
        self._kv_bits = kv_bits
        self._order = order
        rotates = isinstance(model_cache, RotatingKVCache)
        self._rotation: int | None = model_cache.max_size if rotates else None
        self._spec: AttentionSpec | None = None
        self._num_kept = 0  # when the layer attended

    def make_mask(self, *_: object, window_size: int | None = None, **__: object) -> int | None:
        """Return the window in place of a mask; a cache that rotates has a window as well."""
        return window_size or self._rotation

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self._order.num_kept += 1
        return keys, values

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        shape = LayerShape(keys.shape[1], keys.shape[3], values.shape[3], keys.dtype, self._kv_bits)
        window = params.window or self._rotation
        has_sinks = params.sinks is not None
        self._num_kept = self._order.num_kept
        self._spec = AttentionSpec(self._layer, shape, queries.shape[1], params.scale, window, has_sinks)
        return mx.zeros((*queries.shape[:3], values.shape[3]), queries.dtype)

    def spec(self) -> AttentionSpec:
        """Return the layer's attention, after the pass. Raises ValueError if the layer never attended."""
        if self._spec is None:
            raise ValueError("a layer keeps no keys and values")
        return replace(self._spec, is_last=self._num_kept == self._order.num_kept)


class _StateProbe(ArraysCache):
    """Stands for a recurrent layer's cache in `probe`."""

    def __init__(self, model_cache: Any, order: _Order) -> None:
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


def probe(model: nn.Module, kv_bits: int) -> PagedModel:
    """Let `model` attend through PagedLayers, and run it on two tokens to learn what its layers keep.

    Attention gives zeros in that run. Nothing is computed: MLX is lazy, and the shapes tell all.
    kv_bits: bits in which each element of KV is kept, see EngineConfig.
    Raises ValueError when a layer does not attend to keys and values of its own, or when a state grows.
    """
    install(model)
    caches, order = list(make_prompt_cache(model)), _Order()
    structure, parts = CacheStructure(caches), list(leaves(caches))
    states = [_StateProbe(cache, order) for cache in parts if isinstance(cache, ArraysCache)]
    ordinary = [cache for cache in parts if not isinstance(cache, ArraysCache)]
    probes = [_Probe(layer, cache, kv_bits, order) for layer, cache in enumerate(ordinary)]
    logits = model(mx.zeros((1, 2), mx.int32), cache=structure.build(probes, states))
    layers, kept = [probe.spec() for probe in probes], [state.spec() for state in states]
    if states:
        model(mx.zeros((1, 1), mx.int32), cache=structure.build(probes, states))
        if [state.spec() for state in states] != kept:
            raise ValueError("a recurrent layer's state changes its shape or type as it goes on")
    return PagedModel(model, structure, layers, kept, logits.shape[-1])


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
