"""Recurrent layers that leave their state within a slice of a prompt, not only at its end.

The prefix tree wants the state after some of a slice's tokens. A recurrent layer then takes the slice part by
part, from one such place to the next, exactly as it would take slices that end there. All other layers take
the slice as a whole, so that their weights are read once, in one pass over the model.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, repeat
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache

from ...cache.states import StateArray, StateRows, StateSpec
from ..attention.paged_model import PagedModel, layer_states
from ..pass_functions import Function, PassFunctions, Replacement


class PartedCache(ArraysCache):
    """The cache of a recurrent layer whose calls `parted_form` takes part by part."""

    def __init__(self, arrays: list[mx.array | None], cuts: list[int]) -> None:
        """arrays: the state before the slice. cuts: tokens of the slice where each part ends, sorted."""
        super().__init__(len(arrays))
        whole: Any = ArraysCache(len(arrays))
        whole.cache = arrays
        self.whole = whole
        self.cuts = cuts
        self.left: list[list[mx.array | None]] = [[*repeat(None, len(arrays))] for _ in cuts]

    def parts(self) -> Iterator[tuple[int, int]]:
        """Yield where each part begins and ends, and note the state that the caller leaves in `whole` then.

        Several layers may have one state: each leaves its own arrays of it.
        """
        for left, part in zip(self.left, pairwise([0, *self.cuts]), strict=True):
            before = list(self.whole.cache)
            yield part
            for index, (old, new) in enumerate(zip(before, self.whole.cache, strict=True)):
                if new is not old:
                    left[index] = new


class PartedStates:
    """The state before a slice, and those after its parts; KeptStates of one row."""

    def __init__(self, before: StateRows | None, cuts: list[int]) -> None:
        """before: None where these are the row's first tokens. cuts: see PartedCache."""
        self._before, self._cuts = before, cuts
        self._caches: list[PartedCache] = []

    def caches(self, specs: list[StateSpec]) -> list[PartedCache]:
        """Return the cache of each recurrent layer."""
        self._caches = [PartedCache(arrays, self._cuts) for arrays in layer_states(specs, self._before)]
        return self._caches

    def left(self, kept: list[StateArray]) -> list[StateRows]:
        """Return the state after each part of the pass, which has been queued.

        kept: the arrays of all layers. Raises ValueError where a layer has left none.
        """
        found = []
        for part in range(len(self._cuts)):
            rows = [array for cache in self._caches for array in cache.left[part] if array is not None]
            found.append([array.filled(row) for array, row in zip(kept, rows, strict=True)])
        return found


def with_parts(paged: PagedModel) -> PagedModel:
    """Return the model with recurrent layers that leave states within slices; itself where it has none."""
    if not paged.readers:
        return paged
    functions = paged.functions
    calls = {each.owner: each for each in functions.replacements if each.name == "__call__"}
    parted = {}
    for kind in paged.readers:
        theirs = calls[kind].theirs if kind in calls else kind.__call__
        ours = calls[kind].ours if kind in calls else theirs
        parted[kind] = Replacement(kind, "__call__", theirs, parted_form(ours))
    others = [each for each in functions.replacements if each.name != "__call__" or each.owner not in parted]
    replaced = PassFunctions((*others, *parted.values()), functions.num_slot_layers)
    return replace(paged, functions=replaced, leaves_states=True)


def parted_form(theirs: Function) -> Function:
    """Return what takes the place of a recurrent layer's `__call__`: it divides a call with a PartedCache."""

    def call(layer: Any, *args: Any, **more: Any) -> Any:
        given = (each for each in (*args, *more.values()) if isinstance(each, PartedCache))
        cache = next(given, None)
        if cache is None:
            return theirs(layer, *args, **more)
        results = []
        for part in cache.parts():
            own = [_of_part("", each, part, cache) for each in args]
            named = {name: _of_part(name, each, part, cache) for name, each in more.items()}
            results.append(theirs(layer, *own, **named))
        return _joined(results)

    return call


def _of_part(name: str, value: Any, part: tuple[int, int], cache: PartedCache) -> Any:
    """Return a layer's argument for some of its tokens. Raises ValueError where that is not known."""
    first, end = part
    if value is cache:
        return cache.whole
    if name == "offset":
        return value + first
    if isinstance(value, mx.array) and value.ndim > 1 and value.shape[:2] == (1, cache.cuts[-1]):
        return value[:, first:end]
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"a recurrent layer takes {name or 'an argument'} that cannot be divided")


def _joined(results: list[Any]) -> Any:
    """Join what a layer returns for each part."""
    if isinstance(results[0], tuple):
        return tuple(_joined(list(each)) for each in zip(*results, strict=True))
    return None if results[0] is None else mx.concatenate(results, axis=1)
