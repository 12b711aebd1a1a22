"""The pools of recurrent states: for each array that a recurrent layer keeps, a row for each state slot.

A sequence's state is what its tokens have left behind in the recurrent layers. It does not grow, and it
cannot be taken back by a token. A pass reads the states of some slots and keeps the new states in others.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from .kv import pages

StateRows = list[mx.array]
"""The states of some sequences: for each StateArray an array of (rows, *shape)."""


class StateArray(NamedTuple):
    """One array of a recurrent layer's state."""

    shape: tuple[int, ...]  # of one sequence: without the axis of rows
    dtype: mx.Dtype

    @property
    def num_bytes(self) -> int:
        """Bytes that the array takes for one sequence."""
        return math.prod(self.shape) * self.dtype.size

    def filled(self, rows: mx.array) -> mx.array:
        """Return `rows` of the array in its full size, (rows, *shape).

        A list of a sequence's last tokens is shorter while the sequence is; zeros stand for what was before.
        """
        missing = [(full - size, 0) for full, size in zip(self.shape, rows.shape[1:], strict=True)]
        return mx.pad(rows, [(0, 0), *missing]) if any(count for count, _ in missing) else rows


@dataclass(frozen=True, slots=True)
class StateSpec:
    """What one recurrent layer keeps of each sequence: the arrays of its ArraysCache.

    An entry is None where the model never sets the array.
    """

    arrays: tuple[StateArray | None, ...]

    @property
    def kept(self) -> list[StateArray]:
        """The arrays that the model sets."""
        return [array for array in self.arrays if array is not None]


class Remembered(NamedTuple):
    """States as they were kept last."""

    slots: list[int]
    rows: StateRows


class StatePools:
    """The states of all slots, and of one more that only rows without a sequence are kept in.

    The states that a pass keeps are most often those that the next one reads: they are remembered as they
    were computed, and then neither gathered from the pools nor copied.
    """

    def __init__(self, arrays: list[StateArray], num_slots: int) -> None:
        self.state_arrays = arrays
        self._spare_slot = num_slots
        # At most one of a single row, as prompts' slices have, and one of several, as decode batches have.
        self._latest: list[Remembered] = []

    def read(self, slots: list[int], num_rows: int = 0) -> StateRows:
        """Return the states of `slots`, a row each; rows of no meaning follow until there are `num_rows`."""
        if not self.state_arrays:
            return []
        wanted = self._filled(slots, num_rows)
        for known in self._latest:
            if known.slots == wanted:
                return known.rows
        return self._gather(wanted)

    def write(self, slots: list[int], rows: StateRows) -> None:
        """Keep the states of the first `rows` in `slots`."""
        if not self.state_arrays:
            return
        filled, written = self._filled(slots, len(rows[0])), set(slots)
        # A row may be a view of all that a slice has computed, which it would keep alive.
        pairs = zip(rows, self.state_arrays, strict=True)
        rows = [mx.contiguous(row.astype(array.dtype)) for row, array in pairs]
        self._scatter(filled, rows)
        self._latest = [
            known
            for known in self._latest
            if written.isdisjoint(known.slots) and (len(known.slots) > 1) != (len(filled) > 1)
        ]
        self._latest.append(Remembered(filled, rows))

    def _filled(self, slots: list[int], num_rows: int) -> list[int]:
        return slots + [self._spare_slot] * (num_rows - len(slots))

    def _gather(self, slots: list[int]) -> StateRows:
        raise NotImplementedError

    def _scatter(self, slots: list[int], rows: StateRows) -> None:
        raise NotImplementedError

    def arrays(self) -> list[mx.array]:
        """Return the arrays whose evaluation carries out the writes."""
        raise NotImplementedError


class ArrayStates(StatePools):
    """The pools as MLX arrays, on the device that MLX uses; lazy.

    A write copies the whole of a pool that an earlier pass still reads.
    """

    def __init__(self, arrays: list[StateArray], num_slots: int) -> None:
        super().__init__(arrays, num_slots)
        self._pools = [mx.zeros((num_slots + 1, *array.shape), array.dtype) for array in arrays]

    def _gather(self, slots: list[int]) -> StateRows:
        index = mx.array(slots)
        return [pool[index] for pool in self._pools]

    def _scatter(self, slots: list[int], rows: StateRows) -> None:
        index = mx.array(slots)
        for pool, row in zip(self._pools, rows, strict=True):
            pool[index] = row

    def arrays(self) -> list[mx.array]:
        """Return all pools; see StatePools."""
        return self._pools


class HostStates(StatePools):
    """The pools as arrays of NumPy, for MLX's CPU device; writes are carried out at once.

    Pages that were never written take no memory.
    """

    def __init__(self, arrays: list[StateArray], num_slots: int) -> None:
        super().__init__(arrays, num_slots)
        self._pools = [_untouched(array, num_slots + 1) for array in arrays]

    def _gather(self, slots: list[int]) -> StateRows:
        index = slice(slots[0], slots[0] + 1) if len(slots) == 1 else slots  # a view, where there is one
        pairs = zip(self._pools, self.state_arrays, strict=True)
        return [mx.array(pool[index]).view(array.dtype) for pool, array in pairs]

    def _scatter(self, slots: list[int], rows: StateRows) -> None:
        stored = [row.view(_stored(row.dtype)) for row in rows]
        mx.eval(stored)
        for pool, row in zip(self._pools, stored, strict=True):
            pool[slots] = np.asarray(row)

    def arrays(self) -> list[mx.array]:
        """Return nothing: there is nothing to carry out; see StatePools."""
        return []


def _untouched(array: StateArray, num_slots: int) -> npt.NDArray[Any]:
    """Make a pool of zeros whose pages are not touched."""
    dtype = np.asarray(mx.zeros((), _stored(array.dtype))).dtype
    buffer = pages(max(1, num_slots * array.num_bytes))
    count = num_slots * math.prod(array.shape)
    return np.frombuffer(buffer, dtype, count).reshape(num_slots, *array.shape)


def _stored(dtype: mx.Dtype) -> mx.Dtype:
    """Return the type of NumPy's that holds numbers of `dtype`: NumPy has no bfloat16."""
    return mx.uint16 if dtype == mx.bfloat16 else dtype
