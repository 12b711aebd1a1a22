"""Pools of recurrent states: what is written to a slot is read from it, whatever happens to other slots."""

import random

import mlx.core as mx
import numpy as np
import pytest

from pensieve.cache.states import ArrayStates, HostStates, StateArray

ARRAYS = [
    StateArray((3, 4), mx.float32),
    StateArray((2, 2, 2), mx.float32),
    StateArray((5,), mx.bfloat16),
    StateArray((2,), mx.int64),
]
NUM_SLOTS = 7


def drawn(rng: random.Random, num_rows: int) -> list[mx.array]:
    """States of whole numbers, which every type holds."""
    return [
        mx.array(np.array([rng.randrange(200) for _ in range(num_rows * int(np.prod(a.shape)))]))
        .reshape(num_rows, *a.shape)
        .astype(a.dtype)
        for a in ARRAYS
    ]


@pytest.mark.parametrize("kind", [ArrayStates, HostStates])
def test_slots_keep_what_was_written_last(kind: type[ArrayStates] | type[HostStates]) -> None:
    rng, pools = random.Random(0), kind(ARRAYS, NUM_SLOTS)
    kept: dict[int, list[mx.array]] = {}
    for _ in range(40):
        slots = rng.sample(range(NUM_SLOTS), rng.randint(1, 4))
        rows = drawn(rng, len(slots))
        pools.write(slots, rows)
        mx.eval(pools.arrays())
        kept |= {slot: [row[i] for row in rows] for i, slot in enumerate(slots)}
        wanted = rng.choices(sorted(kept), k=rng.randint(1, 5))
        for index, array in enumerate(pools.read(wanted)):
            assert array.dtype == ARRAYS[index].dtype
            assert mx.array_equal(array, mx.stack([kept[slot][index] for slot in wanted]))


def test_rows_that_fill_up_a_batch_leave_all_slots_alone() -> None:
    pools, rows = ArrayStates(ARRAYS, NUM_SLOTS), drawn(random.Random(1), NUM_SLOTS)
    pools.write(list(range(NUM_SLOTS)), rows)
    states = pools.read([2], num_rows=4)
    assert [len(array) for array in states] == [4] * len(ARRAYS)
    pools.write([5], [array + 1 for array in states])
    found = pools.read(list(range(NUM_SLOTS)))
    for before, after in zip(rows, found, strict=True):
        assert mx.array_equal(after[5], before[2] + 1)
        assert mx.array_equal(after[:5], before[:5])
        assert mx.array_equal(after[6], before[6])


def test_bytes_of_a_state_are_those_of_its_arrays() -> None:
    assert [array.num_bytes for array in ARRAYS] == [48, 32, 10, 16]
