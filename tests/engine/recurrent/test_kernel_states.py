"""The kernels that move recurrent states: their text in C++, and the order that a device must keep."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from pensieve.cache.kv import MIN_KERNEL_ELEMENTS
from pensieve.cache.states import StateArray, StateSpec
from pensieve.engine.attention.kernels.source import Kernel
from pensieve.engine.recurrent.kernel_states import KernelStates, are_moved, states_agree
from pensieve.engine.recurrent.state_mover import PIECES, STATE_READ, STATE_WRITE

from ..attention.compiled import compile_kernel, launch, needs_compiler
from ..attention.cpp_kernels import CppKernels

ARRAYS = [StateArray((4, 16, 16), mx.float32), StateArray((3, 70), mx.float32), StateArray((13,), mx.float32)]


@needs_compiler
def test_rows_are_moved_as_mlx_moves_them() -> None:
    assert states_agree(ARRAYS, CppKernels().launcher)


@needs_compiler
@pytest.mark.parametrize(("dtype", "vector"), [("float16", 8), ("bfloat16", 2)])
def test_half_precision_is_moved_to_the_bit(dtype: str, vector: int) -> None:
    size, groups = 1030 * vector, 3  # the last group has a part of its stretch to copy
    constants = {"SIZE": size, "VECTOR": vector, "PIECES": PIECES}
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 1 << 16, (4, size), np.uint16)
    slots, fence = np.array([2, 0] + [0] * 6, np.int32), np.ones(MIN_KERNEL_ELEMENTS, np.float32)
    rows, before = np.zeros((2, size), np.uint16), pool.copy()
    read = compile_kernel(STATE_READ, constants, dtype=dtype)
    launch(read, STATE_READ, [pool, slots, fence], [rows, fence], (groups, 2))
    assert (rows == pool[[2, 0]]).all()
    assert not fence.any()
    slots[:2] = 3, 1
    write = compile_kernel(STATE_WRITE, constants, dtype=dtype)
    launch(write, STATE_WRITE, [rows, pool, slots, fence], [fence], (groups, 2))
    assert (pool[[3, 1]] == rows).all()
    assert (pool[[0, 2]] == before[[0, 2]]).all()


def test_each_launch_waits_for_the_last_one_of_its_pool() -> None:
    """A device may run at once whatever has no path between it: also a write beside an earlier read."""
    taken: list[tuple[str, Any]] = []
    returned: list[Any] = []

    def launcher(kernel: Kernel, scale: float) -> Any:
        def run(inputs: list[mx.array], output_shapes: list[tuple[int, ...]], **_: Any) -> list[mx.array]:
            taken.append((kernel.name, inputs[kernel.inputs.index("write_fence")]))
            outputs = [mx.zeros(shape) for shape in output_shapes]
            returned.append(outputs[-1])
            return outputs

        return run

    states = KernelStates(ARRAYS[:1], 4, launcher)
    states.write([1], [mx.zeros((1, 4, 16, 16))])
    rows = states.read([1, 2], num_rows=4)
    assert rows[0].shape[0] == 4
    states.read([3])
    states.write([2, 3], rows)
    assert [name for name, _ in taken] == ["state_write", "state_read", "state_read", "state_write"]
    assert all(fence is before for (_, fence), before in zip(taken[1:], returned, strict=False))
    assert states.arrays() == [returned[-1]] or states.arrays()[0] is returned[-1]


@needs_compiler
def test_rows_that_stay_in_their_slots_are_read_and_written_there() -> None:
    """By a layer that knows nothing of slots, and then by the pools themselves."""
    states = KernelStates(ARRAYS, 5, CppKernels().launcher)
    drawn = [mx.random.normal((2, *each.shape), key=mx.random.key(0)) for each in ARRAYS]
    states.write([0, 3], drawn)
    assert len(states._latest) == 1
    given = states.in_slots([3, 0], [1, 4], num_rows=4)
    first, second = given.caches([StateSpec((ARRAYS[0], None, ARRAYS[1])), StateSpec((ARRAYS[2],))])
    for cache, index, array in ((first, 0, drawn[0]), (first, 2, drawn[1]), (second, 0, drawn[2])):
        rows = cache[index]
        assert (rows[:2] == array[mx.array([1, 0])]).all()
        cache[index] = rows + 1
    assert first[1] is None
    states.take(given.fences, [1, 4])
    found = states.read([1, 4, 3])
    assert all((a[:2] == b[mx.array([1, 0])] + 1).all() for a, b in zip(found, drawn, strict=True))
    assert all((a[2] == b[1]).all() for a, b in zip(found, drawn, strict=True))


def test_rows_of_few_elements_are_left_to_mlx() -> None:
    assert are_moved(ARRAYS)
    assert not are_moved([StateArray((2, 3), mx.float32)])
