"""Paged attention in MLX: queries against the slot ranges that hold their sequence's keys and values.

Runs on every device and is the reference for the other implementations. Causal: a row's last query sees all
of the row's slots, the query before it all but the last, and so on. Knows nothing of sequences or models.
"""

from dataclasses import dataclass

import mlx.core as mx

from ...cache.kv import Pool
from ..step import SlotRange
from .shared_prefixes import last_slots

QUERY_TILE = 512
"""Most queries of a tile under a window: a tile reads only the keys that some of its queries see."""

FUSED_DIM = 256
"""Elements of the largest heads for which MLX has fused attention; it keeps all scores of larger ones."""

SCORES_TILE = 2**26
"""Most scores of a tile where attention is not fused: 128 MB in half precision."""


@dataclass(frozen=True, slots=True)
class AttentionParams:
    """How one layer weighs its keys."""

    scale: float
    window: int | None = None  # tokens that a query sees, itself included; None for all
    sinks: mx.array | None = None  # (num_heads,) each head's score for no token at all


def attend_arrays(
    queries: mx.array,
    keys: Pool,
    values: Pool,
    slot_ranges: list[tuple[SlotRange, ...]],
    params: AttentionParams,
) -> mx.array:
    """Attend each row to its slots.

    queries: (rows, num_heads, length, key_dim). keys, values: pools of one layer, (num_kv_heads, slots, dim).
    slot_ranges: for each row the slots of its tokens, in order; slots outside the window may be left out.
    Returns (rows, num_heads, length, value_dim).
    """
    rows = [_attend_row(queries[i : i + 1], keys, values, row, params) for i, row in enumerate(slot_ranges)]
    return rows[0] if len(rows) == 1 else mx.concatenate(rows)


def attend_slice(queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams) -> mx.array:
    """Attend a slice of one row to keys and values in token order; the slice's tokens are the last ones.

    queries: (1, num_heads, length, key_dim). keys, values: (1, num_kv_heads, tokens, dim).
    Returns (1, num_heads, length, value_dim).
    """
    length, total, window = queries.shape[2], keys.shape[2], params.window
    is_fused = _is_fused(keys, values)
    if is_fused and (window is None or total <= window):
        return _attend(queries, keys, values, params, "causal" if length > 1 else None)
    attend = _attend if is_fused else _attend_unfused
    most = QUERY_TILE if is_fused else max(1, min(QUERY_TILE, SCORES_TILE // (queries.shape[1] * total)))
    parts = []
    for start in range(0, length, most):
        tile = queries[:, :, start : start + most]
        end = total - length + start + tile.shape[2]
        first = 0 if window is None else max(0, end - tile.shape[2] - window + 1)
        mask = _visible(tile.shape[2], end - first, window)
        parts.append(attend(tile, keys[:, :, first:end], values[:, :, first:end], params, mask))
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)


def _is_fused(keys: Pool | mx.array, values: Pool | mx.array) -> bool:
    """Whether MLX attends to heads of this size without keeping all scores."""
    return bool(keys.shape[-1] == values.shape[-1] <= FUSED_DIM)


def _attend(
    queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams, mask: mx.array | str | None
) -> mx.array:
    return mx.fast.scaled_dot_product_attention(
        queries, keys, values, scale=params.scale, mask=mask, sinks=params.sinks
    )


def _attend_unfused(
    queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams, mask: mx.array
) -> mx.array:
    """Attend a tile of a slice by matmuls that take all query heads of a KV head together.

    mask: (queries, tokens), which tokens each query sees.
    """
    _, num_heads, length, dim = queries.shape
    k, v = keys.squeeze(0), values.squeeze(0)  # keys[0] would be a copy, which waits for nothing
    num_kv_heads, total = k.shape[:2]
    q = (queries * params.scale).reshape(num_kv_heads, -1, dim)
    scores = (q @ k.swapaxes(1, 2)).reshape(num_kv_heads, -1, length, total)
    scores = mx.where(mask, scores, mx.array(-mx.inf, scores.dtype))
    if params.sinks is not None:
        sinks = params.sinks.reshape(num_kv_heads, -1, 1, 1).astype(scores.dtype)
        scores = mx.concatenate([scores, mx.broadcast_to(sinks, (*scores.shape[:3], 1))], axis=-1)
    weights = mx.softmax(scores, axis=-1, precise=True)[..., :total]
    out = weights.reshape(num_kv_heads, -1, total) @ v
    return out.reshape(1, num_heads, length, -1)


def _visible(length: int, total: int, window: int | None) -> mx.array:
    """Return (length, total) booleans: which of `total` keys each of the last `length` tokens sees."""
    age = mx.arange(total - length, total)[:, None] - mx.arange(total)
    return age >= 0 if window is None else (age >= 0) & (age < window)


def _attend_row(
    queries: mx.array, keys: Pool, values: Pool, slot_ranges: tuple[SlotRange, ...], params: AttentionParams
) -> mx.array:
    length = queries.shape[2]
    if params.window is not None:
        slot_ranges = last_slots(slot_ranges, params.window + length - 1)
    if length == 1 and (len(slot_ranges) > 1 or not _is_fused(keys, values)):
        return _attend_ranges(queries, keys, values, slot_ranges, params)
    # One range is a view. Several are copied together: little work beside a prefill chunk's own.
    k = _join([keys[:, first:end] for first, end in slot_ranges])
    v = _join([values[:, first:end] for first, end in slot_ranges])
    return attend_slice(queries, k[None], v[None], params)


def _join(parts: list[mx.array]) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)


def _attend_ranges(
    queries: mx.array, keys: Pool, values: Pool, slot_ranges: tuple[SlotRange, ...], params: AttentionParams
) -> mx.array:
    """Attend one query to several ranges, without copying them: the scores are joined instead.

    All query heads of a KV head are one matmul.
    """
    _, num_heads, _, dim = queries.shape
    q = (queries * params.scale).reshape(keys.shape[0], -1, dim)  # (kv_heads, group, dim)
    scores = [q @ keys[:, first:end].swapaxes(1, 2) for first, end in slot_ranges]
    if params.sinks is not None:
        scores.append(params.sinks.reshape(keys.shape[0], -1, 1).astype(q.dtype))
    weights = mx.softmax(mx.concatenate(scores, axis=-1), axis=-1, precise=True)
    out, start = mx.zeros((), queries.dtype), 0
    for first, end in slot_ranges:
        out = out + weights[..., start : start + end - first] @ values[:, first:end]
        start += end - first
    return out.reshape(1, num_heads, 1, -1)
