"""The contexts of a step's passes, see ForwardContext."""

from collections.abc import Iterable

import mlx.core as mx
import numpy as np

from ..cache.kv import Slots
from .attention.paged_layers import ForwardContext
from .attention.shared_prefixes import last_slots
from .step import DecodeRow, PrefillChunk, SlotRange


def decode_context(rows: list[DecodeRow]) -> ForwardContext:
    """Return the context of a decode batch."""
    return ForwardContext(
        offsets=mx.array([row.position for row in rows]),
        slots=np.array([row.slot_ranges[-1][1] - 1 for row in rows], np.int32),
        slot_ranges=[row.slot_ranges for row in rows],
        samples=True,
    )


def slice_context(chunk: PrefillChunk) -> ForwardContext:
    """Return the context of a prompt's slice alone."""
    return ForwardContext(
        offsets=mx.array([chunk.start]),
        slots=_list_slots(last_slots(chunk.slot_ranges, len(chunk.tokens))),
        slot_ranges=[chunk.slot_ranges],
        samples=False,
    )


def _list_slots(slot_ranges: Iterable[SlotRange]) -> Slots:
    """Return every slot of `slot_ranges`, in order."""
    return np.concatenate([np.arange(first, end, dtype=np.int32) for first, end in slot_ranges])
