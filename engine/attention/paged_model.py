"""Lets an unchanged mlx-lm model attend to paged KV, and finds out what its layers keep of each sequence.

Every mlx-lm model calls `scaled_dot_product_attention` as a name of its own module, with its cache object as
an argument. `install()` replaces that function by a dispatcher. A `PagedLayer` passed as the cache then gets
the new keys and values together with the queries, and computes the whole attention. A recurrent layer gets
an ArraysCache whose arrays are the states of the pass's rows, and leaves the new states there.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import ArraysCache, make_prompt_cache

from ...cache.states import StateArray, StateRows, StateSpec
from ..pass_functions import PassFunctions
from .array_attention import AttentionParams
from .cache_structure import CacheStructure, leaves
from .fetching_layer import FetchingProbe
from .latent_layer import LatentLayer
from .layer_probe import KeepOrder, LayerProbe, StateProbe, reading_layers
from .paged_layers import AttentionSpec, PagedLayer
from .rotation import Deferral
from .shared_layer import OwnedKeys, SharedLayer

ATTENTION = "scaled_dot_product_attention"
"""The function that the modules of mlx-lm's models import and call."""


MAX_GROWTH = 8
"""Tokens within which a state must come to its full size: LongCat's n-gram layer keeps the last tokens."""


class KeptStates(Protocol):
    """The states of a pass's rows in a place that the pass itself writes the new ones to."""

    def caches(self, specs: list[StateSpec]) -> Iterable[Any]:
        """Return the cache of each recurrent layer."""


@dataclass(frozen=True, slots=True)
class PagedModel:
    """An mlx-lm model that attends to paged KV, and the facts that `probe` found by running it."""

    model: nn.Module
    structure: CacheStructure
    layers: list[AttentionSpec]  # each cache of keys and values is that of one attention
    states: list[StateSpec]  # of the recurrent layers
    vocab_size: int  # size of the logits' last axis
    deferral: Deferral = field(default_factory=Deferral)  # of norms and rotations, see `defer_rotations`
    is_fetched: bool = False  # whether the layers are FetchingLayers, and rows are computed one at a time
    functions: PassFunctions = field(default_factory=PassFunctions)  # that `run` puts in place of mlx-lm's
    forgets_windows: bool = False  # whether layers with a window keep no more than it of a sequence
    readers: tuple[type[nn.Module], ...] = ()  # classes of recurrent layers, see `reading_layers`
    leaves_states: bool = False  # whether a pass can leave states within its slice, see `parted_layers.py`

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one token's KV takes over all layers. Raises ValueError, see Packing."""
        return sum(spec.shape.bytes_per_token for spec in self.layers)

    @property
    def windowed(self) -> list[AttentionSpec]:
        """The layers that need a sequence's newest tokens only, those of a window or of a chunk."""
        return [spec for spec in self.layers if spec.kept_window is not None]

    @property
    def kept_window(self) -> int | None:
        """The tokens that `windowed` layers need, the most where they differ; None without such layers."""
        return max((spec.kept_window or 0 for spec in self.windowed), default=None)

    @property
    def state_bytes(self) -> int:
        """Bytes that one sequence's recurrent state takes over all layers; 0 without such layers."""
        return sum(array.num_bytes for array in self.state_arrays)

    @property
    def state_arrays(self) -> list[StateArray]:
        """The arrays of all recurrent layers, in the order of StateRows."""
        return [array for spec in self.states for array in spec.kept]

    def run(
        self, inputs: mx.array, layers: list[Any], states: StateRows | KeptStates | None = None
    ) -> tuple[mx.array, StateRows]:
        """Run the model; return its logits, (rows, length, vocab), and the rows' new states; lazy.

        inputs: (rows, length). layers: what stands for the cache of each attention.
        states: before the inputs; None where these are the rows' first tokens. KeptStates take the new
        states themselves, and none are returned.
        """
        caches = _caches(self.states, states)
        own = [_stand_in(spec, layer) for spec, layer in zip(self.layers, layers, strict=True)]
        with self.functions:
            logits: mx.array = self.model(inputs, cache=self.structure.build(own, caches))
        if not isinstance(states, list | None):
            return logits, []
        new = [array for cache in caches for array in cache.cache if array is not None]
        return logits, [kept.filled(array) for array, kept in zip(new, self.state_arrays, strict=True)]


def _stand_in(spec: AttentionSpec, layer: PagedLayer) -> PagedLayer:
    """Return what the model gets as the cache of a layer; some do more than store and attend."""
    if spec.latent_row is not None:
        return LatentLayer(layer, spec.latent_row)
    return SharedLayer(layer) if spec.is_shared else layer


def _caches(specs: list[StateSpec], states: StateRows | KeptStates | None) -> list[Any]:
    """Make the caches of the recurrent layers."""
    if not isinstance(states, list | None):
        return list(states.caches(specs))
    return [_state_cache(arrays) for arrays in layer_states(specs, states)]


def layer_states(specs: list[StateSpec], states: StateRows | None) -> Iterator[list[mx.array | None]]:
    """Yield the arrays of each recurrent layer's state; None where there are none, or none yet."""
    rows = iter(states or [])
    for spec in specs:
        yield [None if array is None or states is None else next(rows) for array in spec.arrays]


def _state_cache(arrays: list[mx.array | None]) -> Any:
    cache: Any = ArraysCache(len(arrays))
    cache.cache = arrays
    return cache


def probe(model: nn.Module, kv_bits: int) -> PagedModel:
    """Let `model` attend through PagedLayers, and run it on two tokens to learn what its layers keep.

    Attention gives zeros in that run. Nothing is computed: MLX is lazy, and the shapes tell all.
    A model whose attention cannot be taken over is probed by `probe_fetching`.
    kv_bits: bits in which each element of KV is kept, see EngineConfig.
    Raises what the model raises; ValueError when a state grows.
    """
    install(model)
    try:
        return _probe(model, LayerProbe, kv_bits)
    except Exception as error:  # whatever a model of another kind of attention meets
        with suppress(Exception):
            return probe_fetching(model, kv_bits)
        raise error


def probe_fetching(model: nn.Module, kv_bits: int) -> PagedModel:
    """Do what `probe` does for a model that gets keys and values themselves; see FetchingLayer."""
    return replace(_probe(model, FetchingProbe, kv_bits), is_fetched=True)


def _probe(model: nn.Module, kind: type[LayerProbe] | type[FetchingProbe], kv_bits: int) -> PagedModel:
    caches, order = list(make_prompt_cache(model)), KeepOrder()
    structure, parts = CacheStructure(caches), list(leaves(caches))
    states = [StateProbe(cache, order) for cache in parts if isinstance(cache, ArraysCache)]
    ordinary = [cache for cache in parts if not isinstance(cache, ArraysCache)]

    def probes() -> list[Any]:
        return [kind(layer, cache, kv_bits, order) for layer, cache in enumerate(ordinary)]

    own = probes()
    with reading_layers(model) as readers:
        logits = model(mx.zeros((1, 2), mx.int32), cache=structure.build(own, states))
    layers = [probe.spec() for probe in own]
    kept = _full_states(
        states, lambda: model(mx.zeros((1, 1), mx.int32), cache=structure.build(probes(), states))
    )
    return PagedModel(model, structure, layers, kept, logits.shape[-1], readers=tuple(readers))


def _full_states(probes: list[StateProbe], run: Callable[[], object]) -> list[StateSpec]:
    """Return what recurrent layers keep once their states have come to their full size; see MAX_GROWTH.

    run: runs the model on one more token.
    Raises ValueError.
    """
    kept = [state.spec() for state in probes]
    for _ in range(MAX_GROWTH if probes else 0):
        run()
        before, kept = kept, [state.spec() for state in probes]
        if kept == before:
            return kept
    if probes:
        raise ValueError("a recurrent layer's state changes its shape or type as it goes on")
    return []


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
        layer = keys.owner if isinstance(keys, OwnedKeys) else cache
        if isinstance(layer, PagedLayer | LayerProbe):
            params = AttentionParams(scale, layer.window, more.get("sinks"))
            return layer.answer(queries, keys, values, params, mask)
        return attention(queries, keys, values, cache=cache, scale=scale, mask=mask, **more)

    return dispatched
