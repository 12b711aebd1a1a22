"""The contexts of a step's passes, see ForwardContext."""

from collections.abc import Iterable
from dataclasses import replace

import mlx.core as mx
import numpy as np

from ..cache.kv import Slots
from .attention.paged_layers import ForwardContext
from .attention.shared_prefixes import last_slots
from .step import DecodeRow, PrefillChunk, SlotRange


def decode_context(rows: list[DecodeRow]) -> ForwardContext:
    """Return the context of a decode batch."""
    context = _decode_context(mx.array([row.position for row in rows]), [row.slot_ranges for row in rows])
    if not rows[0].window_ranges:
        return context
    windowed = _decode_context(context.offsets, [row.window_ranges for row in rows])
    return replace(context, windowed=windowed)


def _decode_context(offsets: mx.array, slot_ranges: list[tuple[SlotRange, ...]]) -> ForwardContext:
    slots = np.array([ranges[-1][1] - 1 for ranges in slot_ranges], np.int32)
    return ForwardContext(offsets, slots, slot_ranges, samples=True)


def slice_context(chunk: PrefillChunk) -> ForwardContext:
    """Return the context of a prompt's slice alone."""
    offsets, length = mx.array([chunk.start]), len(chunk.tokens)
    context = _slice_context(offsets, length, chunk.slot_ranges)
    if not chunk.window_ranges:
        return context
    return replace(context, windowed=_slice_context(offsets, length, chunk.window_ranges))


def _slice_context(offsets: mx.array, length: int, slot_ranges: tuple[SlotRange, ...]) -> ForwardContext:
    slots = _list_slots(last_slots(slot_ranges, length))
    return ForwardContext(offsets, slots, [slot_ranges], samples=False)


def _list_slots(slot_ranges: Iterable[SlotRange]) -> Slots:
    """Return every slot of `slot_ranges`, in order."""
    return np.concatenate([np.arange(first, end, dtype=np.int32) for first, end in slot_ranges])
