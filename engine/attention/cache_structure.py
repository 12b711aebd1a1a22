"""The structure of a model's cache argument.

mlx-lm's models take a list of caches. A cache keeps the keys and values of an attention (KVCache,
RotatingKVCache) or the state of a recurrent layer (ArraysCache), or it is a CacheList of such caches, which
models index as they would index a tuple. The number of caches says nothing about the number of layers: some
layers have none, and others have two.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mlx_lm.models.cache import ArraysCache, CacheList, ChunkedKVCache, KVCache, RotatingKVCache


@dataclass(frozen=True, slots=True)
class Leaf:
    """A cache that is no CacheList: the attention, or the recurrent layer, of number `index`."""

    is_state: bool
    index: int


@dataclass(frozen=True, slots=True)
class Nest:
    """A CacheList."""

    parts: "list[Leaf | Nest]"


class CacheStructure:
    """The structure of a model's cache argument; it numbers attentions, and recurrent layers, in order."""

    def __init__(self, caches: Any) -> None:
        """caches: what the model's `make_cache` returns; each of a kind that is supported."""
        self._num_layers = self._num_states = 0
        self._parts = [self._part(cache) for cache in caches]

    def _part(self, cache: Any) -> Leaf | Nest:
        if isinstance(cache, CacheList):
            return Nest([self._part(part) for part in cache.caches])
        if isinstance(cache, ArraysCache):
            self._num_states += 1
            return Leaf(True, self._num_states - 1)
        self._num_layers += 1
        return Leaf(False, self._num_layers - 1)

    def build(self, layers: Any, states: Any, nest: Callable[[list[Any]], Any] = tuple) -> list[Any]:
        """Make the model's cache argument.

        layers: what stands for the cache of each attention, in order.
        states: what stands for the cache of each recurrent layer, in order.
        nest: makes what stands for a CacheList of what stands for its caches.
        """

        def built(part: Leaf | Nest) -> Any:
            if isinstance(part, Nest):
                return nest([built(inner) for inner in part.parts])
            return (states if part.is_state else layers)[part.index]

        return [built(part) for part in self._parts]


def leaves(caches: Any) -> Iterator[Any]:
    """Yield the caches of a model's cache argument in order, in the place of each CacheList those in it."""
    for cache in caches:
        if isinstance(cache, CacheList):
            yield from leaves(cache.caches)
        else:
            yield cache


def unsupported(caches: Any) -> list[str]:
    """Return the caches that cannot be stood for, in plain words; each kind once."""
    return sorted({words for cache in leaves(caches) if (words := _unsupported(cache))})


def _unsupported(cache: Any) -> str:
    if type(cache) in (KVCache, ArraysCache, ChunkedKVCache):
        return ""
    if type(cache) is RotatingKVCache:
        return "a window that keeps the first tokens for ever (RotatingKVCache)" if cache.keep else ""
    return f"a cache of the model's own kind ({type(cache).__name__})"
