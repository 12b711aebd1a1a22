"""Slices that leave states before their end, as slices that leave a state at their end only."""

from collections.abc import Iterator
from dataclasses import replace

from .step import PrefillChunk, SlotRange, StateSlots


def slice_parts(chunk: PrefillChunk) -> Iterator[PrefillChunk]:
    """Yield slices that together do what `chunk` does: each ends where a state is wanted."""
    state = chunk.state
    if state is None or not state.within:
        yield chunk
        return
    length, before = len(chunk.tokens), state.before
    start = 0
    for end, slot in state.kept(length).items():
        yield replace(
            chunk,
            tokens=chunk.tokens[start:end],
            start=chunk.start + start,
            slot_ranges=_without_last(chunk.slot_ranges, length - end),
            state=StateSlots(before, slot),
            window_ranges=_without_last(chunk.window_ranges, length - end),
        )
        start, before = end, slot


def _without_last(slot_ranges: tuple[SlotRange, ...], count: int) -> tuple[SlotRange, ...]:
    """Return `slot_ranges` without their last `count` slots."""
    num_left = sum(end - first for first, end in slot_ranges) - count
    kept = []
    for first, end in slot_ranges:
        if num_left > 0:
            kept.append((first, min(end, first + num_left)))
        num_left -= end - first
    return tuple(kept)
