"""The states of a decode pass's rows where they are kept: in the slots of their pools.

A pass reads each row's state from a slot and writes the next one to another. A kernel that knows the pools
and the slots does so itself; for any other reader or writer rows are copied.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache

from ...cache.states import StateSpec
from .state_mover import StateMover


@dataclass(slots=True)
class SlotStates:
    """The pools, and the rows' slots in them. No state is read from a slot that a row's next one goes to."""

    mover: StateMover
    num_rows: int
    pools: list[mx.array]
    fences: list[mx.array]  # the last fence of each pool; the pass puts its own in their places
    before: mx.array  # of each row; see `slot_index`
    after: mx.array
    lengths: mx.array | None = None  # of the rows, int32, (rows,), where padding follows their tokens

    def arrays(self) -> list[mx.array]:
        """Return all arrays but the lengths, as `of` takes them."""
        return [self.before, self.after, *self.pools, *self.fences]

    @classmethod
    def of(
        cls, mover: StateMover, num_rows: int, arrays: list[mx.array], lengths: mx.array | None = None
    ) -> "SlotStates":
        """Return the states whose arrays these are; a graph gets them as its inputs."""
        before, after, *others = arrays
        half = len(others) // 2
        return cls(mover, num_rows, others[:half], others[half:], before, after, lengths)

    def caches(self, specs: list[StateSpec]) -> list["SlotCache"]:
        """Return the cache of each recurrent layer. The pools are those of the specs' arrays, in order."""
        places, caches = iter(range(len(self.pools))), []
        for spec in specs:
            caches.append(SlotCache(self, [None if each is None else next(places) for each in spec.arrays]))
        return caches


class SlotCache(ArraysCache):
    """The cache of a recurrent layer, whose arrays lie in pools: reads and writes of rows copy them."""

    def __init__(self, states: SlotStates, places: list[int | None]) -> None:
        """places: the number of the pool of each array; None for an array that the layer never sets."""
        super().__init__(len(places))
        self.lengths: Any = states.lengths
        self.states = states
        self._places = places

    @property
    def pools(self) -> list[mx.array]:
        """The pools of the layer's arrays."""
        return [self.states.pools[place] for place in self._kept]

    @property
    def fences(self) -> list[mx.array]:
        """The last write fence of each of `pools`."""
        return [self.states.fences[place] for place in self._kept]

    @property
    def _kept(self) -> list[int]:
        return [place for place in self._places if place is not None]

    def advance(self, N: int) -> None:
        """Count nothing: all layers' caches have the same lengths, which mlx-lm would lower in place."""

    def wrote(self, next_fence: mx.array) -> None:
        """Take the fence of a kernel that has read and written all of `pools`."""
        for place in self._kept:
            self.states.fences[place] = next_fence

    def __getitem__(self, index: int) -> Any:
        place, states = self._places[index], self.states
        if place is None:
            return None
        rows, states.fences[place] = states.mover.read(
            states.pools[place], states.before, states.num_rows, states.fences[place]
        )
        return rows

    def __setitem__(self, index: int, rows: mx.array) -> None:
        place, states = self._places[index], self.states
        assert place is not None
        pool = states.pools[place]
        kept = mx.contiguous(rows.astype(pool.dtype))
        states.fences[place] = states.mover.write(pool, states.after, kept, states.fences[place])
