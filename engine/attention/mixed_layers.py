"""Slices of prompts and decode rows in one forward pass, so that a step reads the model's weights once.

Each token of a slice is a row of its own: the model gets tokens of shape (rows, 1), each slice's in turn,
then the decode rows'. Only attention must know which rows belong together: a MixedLayer gives each part of
the rows to the part's own PagedLayer. The model's last layer computes nothing of a slice but its keys and
values, so that what follows (norm, projection to the vocabulary, scaling of logits) sees decode rows only.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map

from .array_attention import AttentionParams
from .paged_layers import AttentionSpec, HostLayer, PagedLayer

Layers = list[PagedLayer]
"""The model's cache argument: an object for each layer."""


class Part(NamedTuple):
    """Rows of a mixed pass that belong together, and one layer's cache argument for them alone."""

    layer: Any  # a PagedLayer; a HostLayer where NumPy attends
    first: int
    end: int
    is_slice: bool  # the rows are one slice: to `layer` they are the length axis of a single row

    def of(self, rows: Any) -> Any:
        """Return the part's own of a pass's (rows, heads, 1, dim), as the layer takes it; of MLX or NumPy."""
        own = rows[self.first : self.end]
        return own.swapaxes(0, 2) if self.is_slice else own

    def as_rows(self, result: Any) -> Any:
        """Return what the layer returned as (rows, heads, 1, dim)."""
        return result.swapaxes(0, 2) if self.is_slice else result


class MixedLayer(PagedLayer):
    """A layer whose rows belong to several parts."""

    def __init__(self, spec: AttentionSpec, offsets: mx.array, parts: list[Part], is_last: bool) -> None:
        """Make the layer of a pass.

        offsets: (rows,) each token's position. parts: in the order of their rows, that of decode rows last.
        is_last: whether no layer follows.
        """
        super().__init__(spec, offsets)
        self._spec = spec
        self._parts = parts
        self._is_last = is_last

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        """Let each part store its keys and values and attend to its own tokens; see PagedLayer."""
        results = []
        for part in self._parts:
            result = part.layer.attend(part.of(queries), part.of(keys), part.of(values), params)
            results.append(part.as_rows(result))
        return mx.concatenate(results)

    def attend_again(self, queries: mx.array, params: AttentionParams) -> mx.array:
        """Let each part attend to its own tokens; see PagedLayer."""
        results = []
        for part in self._parts:
            results.append(part.as_rows(part.layer.attend_again(part.of(queries), params)))
        return mx.concatenate(results)

    def divided(self) -> list[tuple[PagedLayer, slice]]:
        """Return a cache argument for all slices and one for the decode rows, each with its rows.

        Returns an empty list unless this is the model's last layer and has both.
        """
        *slices, last = self._parts
        if last.is_slice or not self._is_last:
            return []
        of_slices = type(self)(self._spec, self.offset[: last.first], slices, is_last=True)
        return [(of_slices, slice(0, last.first)), (last.layer, slice(last.first, last.end))]


class MixedHostLayer(MixedLayer):
    """A MixedLayer of HostLayers; evaluates its inputs once for all parts."""

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        """Store and attend in NumPy; see MixedLayer."""
        is_read = any(part.layer.is_read for part in self._parts)
        mx.eval(keys, values, *([queries] if is_read else []))
        k, v = np.asarray(keys), np.asarray(values)
        for part in self._parts:
            part.layer.store(part.of(k), part.of(v))
        shape = (*queries.shape[:3], values.shape[3])
        if not is_read:
            return mx.zeros(shape, queries.dtype)
        q, out = np.asarray(queries), np.empty(shape, np.float32)
        for part in self._parts:
            out[part.first : part.end] = part.as_rows(part.layer.read(part.of(q), params))
        return mx.array(out)


def mixed_layers(
    specs: list[AttentionSpec], offsets: mx.array, slices: list[tuple[Layers, int]], decode: Layers | None
) -> list[MixedLayer]:
    """Make the model's cache argument for a mixed pass from those of its parts.

    offsets: (rows,) each token's position. slices: for each slice its layers and its length.
    decode: the layers of the decode rows, None where there are none.
    """
    kind = MixedHostLayer if isinstance(slices[0][0][0], HostLayer) else MixedLayer
    mixed = []
    for index, spec in enumerate(specs):
        parts: list[Part] = []
        for layers, length in slices:
            first = parts[-1].end if parts else 0
            parts.append(Part(layers[index], first, first + length, is_slice=True))
        if decode is not None:
            parts.append(Part(decode[index], parts[-1].end, offsets.size, is_slice=False))
        mixed.append(kind(spec, offsets, parts, is_last=index == len(specs) - 1))
    return mixed


def divide_last_layer(model: Any) -> None:
    """Let the model's last layer compute the slices of a mixed pass apart, of which only KV is needed.

    Changes `__call__` of the layer's class, once; without a MixedLayer it computes as before.
    """
    kind: Any = type(model.layers[-1])
    if not hasattr(kind.__call__, "__wrapped__"):
        kind.__call__ = _divide(kind.__call__)


def _divide(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def divided(layer: nn.Module, *args: Any, **options: Any) -> Any:
        given = (*args, *options.values())
        mixed = next((value for value in given if isinstance(value, PagedLayer)), None)
        parts = [] if mixed is None else mixed.divided()
        if mixed is None or not parts:
            return call(layer, *args, **options)
        result = None
        for cache, rows in parts:
            own_args, own_options = tree_map(_selection(mixed, cache, rows), (args, options))
            result = call(layer, *own_args, **own_options)
        return result  # of the decode rows

    return divided


def _selection(mixed: PagedLayer, cache: PagedLayer, rows: slice) -> Callable[[Any], Any]:
    """Return what takes `rows` of an argument of a model's layer, and `cache` in place of `mixed`."""

    def select(value: Any) -> Any:
        if value is mixed:
            return cache
        if isinstance(value, mx.array) and value.shape[:2] == (mixed.offset.size, 1):
            return value[rows]
        return value

    return select
