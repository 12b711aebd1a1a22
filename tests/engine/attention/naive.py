"""Attention as the textbook has it, for one row; the judge of the fast ones."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pensieve.engine.step import SlotRange

Array = npt.NDArray[np.float32]


def attend(
    queries: Array,
    keys: Array,
    values: Array,
    slot_ranges: list[SlotRange],
    scale: float,
    window: int | None = None,
    sinks: Array | None = None,
) -> Any:
    """Causal attention over the last slots of `slot_ranges`.

    queries: (heads, length, dim). keys, values: (kv_heads, slots, dim). sinks: (heads,).
    Returns (heads, length, dim).
    """
    slots = np.concatenate([np.arange(first, end) for first, end in slot_ranges])
    group, length = len(queries) // len(keys), queries.shape[1]
    k = np.repeat(keys[:, slots], group, axis=0).astype(np.float64)
    v = np.repeat(values[:, slots], group, axis=0).astype(np.float64)
    scores = queries.astype(np.float64) @ k.swapaxes(1, 2) * scale
    behind = np.arange(len(slots) - length, len(slots))[:, None] - np.arange(len(slots))[None, :]
    scores[:, (behind < 0) | (behind >= (window or len(slots)))] = -np.inf
    weights = np.exp(scores)
    sink = 0 if sinks is None else np.exp(sinks.astype(np.float64))[:, None, None]
    return weights / (weights.sum(axis=-1, keepdims=True) + sink) @ v
