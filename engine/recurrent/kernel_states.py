"""The pools of recurrent states on Metal and CUDA: kernels copy rows out of their slots and into them.

MLX copies a whole pool at every write while an earlier pass is on the device. These kernels write in place.
MLX does not see that, so a chain of small arrays, a fence for each pool, orders all reads and writes of it:
each takes the last fence and returns the next.
"""

import math
from collections.abc import Callable

import mlx.core as mx

from ...cache.kv import MIN_KERNEL_ELEMENTS
from ...cache.states import ArrayStates, HostStates, StateArray, StateRows
from ..attention.kernels.layer_kernels import Launch
from ..attention.kernels.paged_kernels import PagedKernels
from ..attention.kernels.source import Kernel
from ..attention.paged_model import PagedModel
from .slot_states import SlotStates
from .state_mover import StateMover, slot_index


class KernelStates(ArrayStates):
    """Pools that are written in place; lazy."""

    def __init__(
        self,
        arrays: list[StateArray],
        num_slots: int,
        launcher: Callable[[Kernel, float], Launch],
        are_in_slots: bool = False,
    ) -> None:
        """Make pools of zeros.

        launcher: declares a kernel to MLX, as PagedKernels does.
        are_in_slots: whether the layers' decode steps read and write the slots themselves, see `in_slots`.
        """
        super().__init__(arrays, num_slots)
        self.are_in_slots = are_in_slots
        self.mover = StateMover(launcher)
        self._fences = [mx.zeros((MIN_KERNEL_ELEMENTS,)) for _ in arrays]

    def in_slots(self, before: list[int], after: list[int], num_rows: int) -> SlotStates:
        """Return the states of rows in their slots, and rows of no meaning up to `num_rows`.

        Give the result to `take` when the pass that it is for is queued. before, after: without a slot in
        common.
        """
        indices = [slot_index(self._filled(slots, num_rows)) for slots in (before, after)]
        return SlotStates(self.mover, num_rows, self._pools, list(self._fences), *indices)

    def take(self, fences: list[mx.array], after: list[int]) -> None:
        """Go on from the fences of a pass that has written the slots `after` itself."""
        self._fences = fences
        written = set(after)
        self._latest = [known for known in self._latest if written.isdisjoint(known.slots)]

    def _gather(self, slots: list[int]) -> StateRows:
        index, rows = slot_index(slots), []
        for place, pool in enumerate(self._pools):
            row, self._fences[place] = self.mover.read(pool, index, len(slots), self._fences[place])
            rows.append(row)
        return rows

    def _scatter(self, slots: list[int], rows: StateRows) -> None:
        index = slot_index(slots)
        for place, (pool, row) in enumerate(zip(self._pools, rows, strict=True)):
            self._fences[place] = self.mover.write(pool, index, row, self._fences[place])

    def arrays(self) -> list[mx.array]:
        """Return the fences: evaluating them carries out the writes."""
        return self._fences


def make_states(
    paged: PagedModel, num_slots: int, on_host: bool, kernels: PagedKernels | None
) -> ArrayStates | HostStates:
    """Make the pools of a model's states: in NumPy on the host, else where `kernels`, if any, move them."""
    arrays = paged.state_arrays
    if kernels is not None and kernels.moves_states and are_moved(arrays):
        are_in_slots = 0 < paged.functions.num_slot_layers == len(paged.states)
        return KernelStates(arrays, num_slots, kernels.launcher, are_in_slots)
    return (HostStates if on_host else ArrayStates)(arrays, num_slots)


def are_moved(arrays: list[StateArray]) -> bool:
    """Whether the kernels can move such arrays: a row has the elements that a kernel's argument needs."""
    return all(math.prod(array.shape) >= MIN_KERNEL_ELEMENTS for array in arrays)


def states_agree(arrays: list[StateArray], launcher: Callable[[Kernel, float], Launch]) -> bool:
    """Whether the kernels move random states as MLX does, on this device."""
    ours, theirs = KernelStates(arrays, 3, launcher), ArrayStates(arrays, 3)
    for turn, (before, after) in enumerate([([0], [1]), ([1, 0], [2, 0]), ([2], [1]), ([0, 2], [2, 0])]):
        drawn = [
            mx.random.normal((len(after), *each.shape), key=mx.random.key(turn)).astype(each.dtype)
            for each in arrays
        ]
        for pools in (ours, theirs):
            read = pools.read(before, len(after))
            pools.write(after, [new + old for new, old in zip(drawn, read, strict=True)])
    found, expected = ours.read([0, 1, 2]), theirs.read([0, 1, 2])
    return all(bool((a == b).all()) for a, b in zip(found, expected, strict=True))
