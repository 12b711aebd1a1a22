"""Layers that attend to keys and values which another layer keeps (Gemma 3n, Gemma 4 E2B and E4B).

A model hands the owner's keys on to such layers. They are recognised as an array of a class of their own.
"""

from typing import Any

import mlx.core as mx

from .array_attention import AttentionParams
from .paged_layers import PagedLayer


class OwnedKeys(mx.array):
    """The new keys of a layer, which know the layer that keeps them."""

    owner: Any

    @classmethod
    def of(cls, keys: mx.array, owner: Any) -> "OwnedKeys":
        """Return `keys`, to be recognised as those of `owner`."""
        owned = cls(keys)
        owned.owner = owner
        return owned


class SharedLayer(PagedLayer):
    """Stands for the cache of a layer to whose keys and values other layers attend as well."""

    def __init__(self, inner: PagedLayer) -> None:
        """inner: stores and attends."""
        self._inner = inner
        self._fetched: tuple[mx.array, mx.array] | None = None
        self._is_stored = False
        self.window = inner.window
        self.offset = inner.offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Return the new keys and values; the keys are recognised wherever the model takes them."""
        self._fetched = OwnedKeys.of(keys, self), values
        return self._fetched

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """Return what `update_and_fetch` has returned; models ask for it in layers that keep nothing."""
        assert self._fetched is not None, "the owner's layer comes first"
        return self._fetched

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        """Attend to all of the rows' KV; the first time, store the new keys and values before."""
        if self._is_stored:
            return self._inner.attend_again(queries, params)
        self._is_stored = True
        return self._inner.attend(queries, keys, values, params)
