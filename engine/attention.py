"""Paged attention: queries against the runs of slots that hold their sequence's keys and values.

`attend_arrays` is MLX and runs on every device; `HostAttention` is NumPy, for MLX's CPU device. Both are
causal: of a row's queries the last one sees all of the row's slots, the one before it all but the last, and so
on. They know nothing of sequences or models.
"""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from .step import Run

Floats = npt.NDArray[np.float32]

KEY_TILE = 512
"""Keys attended at a time on the host: scores of 1024 queries take 2 MB then, and stay in the cache."""

QUERY_TILE = 1024
"""Query rows, over the heads of a group, attended at a time on the host."""

SMALL_SCORES = 20_000
"""Scores of one KV head, over all rows, below which another thread costs more than it saves."""


def attend_arrays(
    queries: mx.array, keys: mx.array, values: mx.array, runs: list[tuple[Run, ...]], scale: float
) -> mx.array:
    """Attend with MLX.

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


class HostAttention:
    """Attend with NumPy, several heads at a time: NumPy works without the GIL, on one core for each call."""

    def __init__(self, num_threads: int) -> None:
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="attention")

    def attend(
        self, queries: Floats, keys: Floats, values: Floats, runs: list[tuple[Run, ...]], scale: float
    ) -> Floats:
        """Shapes as in `attend_arrays`."""
        num_rows, num_heads, length, dim = queries.shape
        num_kv_heads, group = keys.shape[0], num_heads // keys.shape[0]
        out = np.empty((num_rows, num_heads, length, values.shape[2]), np.float32)
        grouped = (queries * np.float32(scale)).reshape(num_rows, num_kv_heads, group * length, dim)
        written = out.reshape(num_rows, num_kv_heads, group * length, -1)
        tiles = [_tiles(row) for row in runs]

        def attend_head(task: tuple[int, int, int]) -> None:
            row, head, start = task
            rows = slice(start, start + QUERY_TILE)
            # How far from the end of the keys each query stops seeing: -1 for the last one, which sees all.
            limits = np.arange(start, min(start + QUERY_TILE, group * length)) % length - length
            q = grouped[row, head, rows]
            written[row, head, rows] = _attend_tiles(q, keys[head], values[head], tiles[row], limits)

        starts = range(0, group * length, QUERY_TILE)
        tasks = [
            (row, head, start) for row in range(num_rows) for head in range(num_kv_heads) for start in starts
        ]
        is_small = sum(run[1] - run[0] for row in runs for run in row) * group * length < SMALL_SCORES
        deque(map(attend_head, tasks) if is_small else self._threads.map(attend_head, tasks), maxlen=0)
        return out


def _tiles(runs: tuple[Run, ...]) -> list[Run | npt.NDArray[np.int32]]:
    """Cut runs into pieces of at most KEY_TILE slots; small runs are gathered into one index instead."""
    tiles: list[Run | npt.NDArray[np.int32]] = []
    small: list[npt.NDArray[np.int32]] = []

    def flush() -> None:
        if small:
            tiles.append(np.concatenate(small))
            small.clear()

    for first, end in runs:
        for start in range(first, end, KEY_TILE):
            stop = min(end, start + KEY_TILE)
            if stop - start < KEY_TILE // 4 and len(runs) > 1:
                small.append(np.arange(start, stop, dtype=np.int32))
                if sum(map(len, small)) >= KEY_TILE:
                    flush()
            else:
                flush()
                tiles.append((start, stop))
    flush()
    return tiles


def _attend_tiles(
    queries: Floats,
    keys: Floats,
    values: Floats,
    tiles: list[Run | npt.NDArray[np.int32]],
    limits: npt.NDArray[np.int64],
) -> Floats:
    """Online softmax over the tiles of one KV head (Milakov & Gimelshein 2018; FlashAttention, Dao 2022).

    queries: (q, dim), scaled. limits: how far from the end of the keys each query stops seeing, -1 for all.
    """
    total = sum(tile[1] - tile[0] if isinstance(tile, tuple) else len(tile) for tile in tiles)
    peak = np.full((len(queries), 1), -1e30, np.float32)
    mass = np.zeros_like(peak)
    out = np.zeros((len(queries), values.shape[1]), np.float32)
    done = 0
    for tile in tiles:
        where = slice(*tile) if isinstance(tile, tuple) else tile
        scores = queries @ keys[where].T
        done += scores.shape[1]
        if done > total + limits.min() + 1:  # some query ends before this tile does
            _hide_future(scores, done, total + limits + 1)
        new_peak = np.maximum(peak, scores.max(axis=1, keepdims=True))
        scores -= new_peak
        np.exp(scores, out=scores)
        shrink = np.exp(peak - new_peak)
        mass = mass * shrink + scores.sum(axis=1, keepdims=True)
        out *= shrink
        out += scores @ values[where]
        peak = new_peak
    return out / mass


def _hide_future(scores: Floats, done: int, seen: npt.NDArray[np.int64]) -> None:
    """Mask, in place, the keys at or after each query's `seen`; the last column is key `done - 1`."""
    index = np.arange(done - scores.shape[1], done)
    scores[index[None, :] >= seen[:, None]] = -np.inf
