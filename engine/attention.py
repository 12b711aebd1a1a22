"""Paged attention in MLX: queries against the runs of slots that hold their sequence's keys and values.

Runs on every device and is the reference for the others. Causal: of a row's queries the last one sees all of
the row's slots, the one before it all but the last, and so on. Knows nothing of sequences or models.
"""

import mlx.core as mx

from .step import Run


def attend_arrays(
    queries: mx.array, keys: mx.array, values: mx.array, runs: list[tuple[Run, ...]], scale: float
) -> mx.array:
    """Attend each row to its own slots.

    queries: (rows, num_heads, length, key_dim). keys, values: pools of one layer, (num_kv_heads, slots, dim).
    runs: for each row the slots of its tokens, in order. Returns (rows, num_heads, length, value_dim).
    """
    rows = [_attend_row(queries[i : i + 1], keys, values, row, scale) for i, row in enumerate(runs)]
    return rows[0] if len(rows) == 1 else mx.concatenate(rows)


def _attend_row(
    queries: mx.array, keys: mx.array, values: mx.array, runs: tuple[Run, ...], scale: float
) -> mx.array:
    length = queries.shape[2]
    if length == 1 and len(runs) > 1:
        return _attend_runs(queries, keys, values, runs, scale)
    # One run is a view. A prefill chunk's runs are copied together: little beside what it computes.
    k = _join([keys[:, first:end] for first, end in runs])
    v = _join([values[:, first:end] for first, end in runs])
    mask = "causal" if length > 1 else None
    return mx.fast.scaled_dot_product_attention(queries, k[None], v[None], scale=scale, mask=mask)


def _join(parts: list[mx.array]) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)


def _attend_runs(
    queries: mx.array, keys: mx.array, values: mx.array, runs: tuple[Run, ...], scale: float
) -> mx.array:
    """One query over several runs, without copying them: the scores are joined instead."""
    _, num_heads, _, dim = queries.shape
    q = (queries * scale).reshape(keys.shape[0], -1, dim)  # (kv_heads, group, dim)
    scores = mx.concatenate([q @ keys[:, first:end].swapaxes(1, 2) for first, end in runs], axis=-1)
    weights = mx.softmax(scores, axis=-1, precise=True)
    out, start = mx.zeros((), queries.dtype), 0
    for first, end in runs:
        out = out + weights[..., start : start + end - first] @ values[:, first:end]
        start += end - first
    return out.reshape(1, num_heads, 1, -1)
