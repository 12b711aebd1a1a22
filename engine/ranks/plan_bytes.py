"""A step's plan as bytes, for the ranks that compute it and choose nothing.

A version, then 64-bit integers, lowest byte first: counts stand before what they count, NONE for what is not
there. Sampling, masks and transfers do not cross: rank 0 samples, and its tokens reach the others on the
device.
"""

import sys
from array import array
from collections.abc import Iterator

from ..step import DecodeRow, PrefillChunk, SamplingParams, SlotRange, StateSlots, StepPlan

VERSION = 1
NONE = -1

UNUSED = SamplingParams()
"""Stands for a row's sampling where nothing is sampled."""


def encode_plan(plan: StepPlan) -> bytes:
    """Return what the other ranks need of a plan."""
    numbers = array("q", [VERSION, plan.step_id, len(plan.decode)])
    for row in plan.decode:
        numbers.extend([row.seq_id, NONE if row.token is None else row.token, row.position])
        _put_places(numbers, row.slot_ranges, row.window_ranges, row.state)
    numbers.append(len(plan.prefill))
    for chunk in plan.prefill:
        numbers.extend([chunk.seq_id, chunk.start, len(chunk.tokens), *chunk.tokens])
        _put_places(numbers, chunk.slot_ranges, chunk.window_ranges, chunk.state)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def decode_plan(data: bytes) -> StepPlan:
    """Return the plan that `encode_plan` has written. Raises ValueError for anything else."""
    numbers = array("q")
    numbers.frombytes(data)  # ValueError where the length does not fit
    if sys.byteorder == "big":
        numbers.byteswap()
    reader = iter(numbers)
    try:
        plan = _read_plan(reader)
    except StopIteration:
        raise ValueError("a plan ends too early") from None
    if next(reader, None) is not None:
        raise ValueError("a plan is too long")
    return plan


def _put_places(
    numbers: "array[int]",
    slots: tuple[SlotRange, ...],
    windows: tuple[SlotRange, ...],
    state: StateSlots | None,
) -> None:
    for ranges in (slots, windows):
        numbers.append(len(ranges))
        for pair in ranges:
            numbers.extend(pair)
    if state is None:
        numbers.append(NONE)
        return
    before = NONE if state.before is None else state.before
    numbers.extend([len(state.within), before, state.after])
    for pair in state.within:
        numbers.extend(pair)


def _read_plan(reader: Iterator[int]) -> StepPlan:
    version, step_id = next(reader), next(reader)
    if version != VERSION:
        raise ValueError(f"a plan of version {version}")
    rows = []
    for _ in range(next(reader)):
        seq_id, token, position = next(reader), next(reader), next(reader)
        slots, windows, state = _places(reader)
        known = None if token == NONE else token
        rows.append(DecodeRow(seq_id, known, position, slots, UNUSED, state=state, window_ranges=windows))
    chunks = []
    for _ in range(next(reader)):
        seq_id, start = next(reader), next(reader)
        tokens = [next(reader) for _ in range(next(reader))]
        slots, windows, state = _places(reader)
        chunks.append(PrefillChunk(seq_id, tokens, start, slots, state, windows))
    return StepPlan(step_id, rows, chunks)


def _places(
    reader: Iterator[int],
) -> tuple[tuple[SlotRange, ...], tuple[SlotRange, ...], StateSlots | None]:
    slots, windows = _pairs(reader, next(reader)), _pairs(reader, next(reader))
    num_within = next(reader)
    if num_within == NONE:
        return slots, windows, None
    before, after = next(reader), next(reader)
    return slots, windows, StateSlots(None if before == NONE else before, after, _pairs(reader, num_within))


def _pairs(reader: Iterator[int], count: int) -> tuple[tuple[int, int], ...]:
    return tuple([(next(reader), next(reader)) for _ in range(count)])
