"""Paged attention in NumPy, for MLX's CPU device, where it is several times faster than MLX's own.

Online softmax over tiles of keys (Milakov & Gimelshein 2018; FlashAttention, Dao et al. 2022). A stretch of
slots that several rows share is one matmul for all of them.
"""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from .segments import Segment
from .step import Run

Floats = npt.NDArray[np.float32]
Index = slice | npt.NDArray[np.int64]

QUERY_TILE = 1024
"""Queries, over the heads of a group, attended at a time."""

SCORES_TILE = 512 * QUERY_TILE
"""Scores computed at a time: 2 MB, to stay in the cache."""

SMALL_SCORES = 20_000
"""Scores of one KV head below which another thread costs more than it saves."""


class HostAttention:
    """Attends with several heads at a time: NumPy works without the GIL, on one core for each call."""

    def __init__(self, num_threads: int) -> None:
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="attention")

    def attend(
        self, queries: Floats, keys: Floats, values: Floats, reads: list[Segment], scale: float
    ) -> Floats:
        """Attend to paged KV.

        queries: (rows, num_heads, length, key_dim); one row where length > 1, causal over its last slots.
        keys, values: pools of one layer, (num_kv_heads, slots, dim). reads: what the rows see.
        Returns (rows, num_heads, length, value_dim).
        """
        num_rows, num_heads, length, dim = queries.shape
        num_kv_heads = keys.shape[0]
        assert num_rows == 1 or length == 1, "prefill has one row"
        grouped = (queries * np.float32(scale)).reshape(num_rows, num_kv_heads, -1, dim)
        out = np.empty((*grouped.shape[:3], values.shape[2]), np.float32)
        num_queries = grouped.shape[2]

        def attend_head(task: tuple[int, int]) -> None:
            head, start = task
            part = np.s_[:, head, start : start + QUERY_TILE]
            softmax = Softmax(grouped[part], values.shape[2])
            seen = (
                _num_seen(np.arange(start, start + softmax.num_queries), length, reads)
                if length > 1
                else None
            )
            for segment in reads:
                softmax.add(segment, keys[head], values[head], seen)
            out[part] = softmax.result()

        tasks = [(head, start) for head in range(num_kv_heads) for start in range(0, num_queries, QUERY_TILE)]
        num_scores = sum(len(segment.rows) * segment.num_slots for segment in reads) * num_queries
        run = map if num_scores < SMALL_SCORES else self._threads.map
        deque(run(attend_head, tasks), maxlen=0)
        return out.reshape(num_rows, num_heads, length, -1)


def _num_seen(queries: npt.NDArray[np.int64], length: int, reads: list[Segment]) -> npt.NDArray[np.int64]:
    """How many of the row's slots each of `queries`, numbered over the group's heads, sees."""
    total = sum(segment.num_slots for segment in reads)
    return queries % length - length + 1 + total


class Softmax:
    """The running softmax of one KV head: each query's peak score, mass and weighted values."""

    def __init__(self, queries: Floats, value_dim: int) -> None:
        """queries: (rows, queries of a row, key_dim), scaled."""
        self._queries = queries
        shape = queries.shape[:2]
        self._peak = np.full((*shape, 1), -1e30, np.float32)
        self._mass = np.zeros((*shape, 1), np.float32)
        self._out = np.zeros((*shape, value_dim), np.float32)
        self._done = 0  # slots added; only counted, and only of use, where there is one row

    @property
    def num_queries(self) -> int:
        """Queries of each row."""
        return len(self._queries[0])

    def add(self, segment: Segment, keys: Floats, values: Floats, seen: npt.NDArray[np.int64] | None) -> None:
        """Let the segment's rows attend to its slots. seen: slots that each query sees; None for all."""
        all_rows = len(segment.rows) == len(self._queries)
        rows: Index = np.s_[:] if all_rows else np.array(segment.rows)
        queries = self._queries[rows].reshape(-1, self._queries.shape[2])
        state = [a[rows].reshape(len(queries), -1) for a in (self._peak, self._mass, self._out)]
        for tile in _tiles(segment.runs, max(1, SCORES_TILE // len(queries))):
            scores = queries @ keys[tile].T
            self._done += scores.shape[1]
            if seen is not None and self._done > seen.min():
                _hide_future(scores, self._done, seen)
            _absorb(state, scores, values[tile])
        for array, part in zip((self._peak, self._mass, self._out), state, strict=True):
            array[rows] = part.reshape(array[rows].shape)

    def result(self) -> Floats:
        """(rows, queries of a row, value_dim)"""
        return np.divide(self._out, self._mass, dtype=np.float32)


def _absorb(state: list[Floats], scores: Floats, values: Floats) -> None:
    """Add a tile of scores, which are overwritten, to (peak, mass, out) in place."""
    peak, mass, out = state
    new_peak = np.maximum(peak, scores.max(axis=1, keepdims=True))
    scores -= new_peak
    np.exp(scores, out=scores)
    shrink = np.exp(peak - new_peak)
    mass *= shrink
    mass += scores.sum(axis=1, keepdims=True)
    out *= shrink
    out += scores @ values
    peak[:] = new_peak


def _hide_future(scores: Floats, done: int, seen: npt.NDArray[np.int64]) -> None:
    """Mask, in place, the slots that a query does not see; the last column is slot `done - 1` of its row."""
    index = np.arange(done - scores.shape[1], done)
    scores[index[None, :] >= seen[:, None]] = -np.inf


def _tiles(runs: tuple[Run, ...], size: int) -> list[Any]:
    """Cut runs into indices of at most `size` slots: views, but small runs are gathered into one."""
    tiles: list[Any] = []
    small: list[npt.NDArray[np.int64]] = []
    for first, end in runs:
        for start in range(first, end, size):
            stop = min(end, start + size)
            if len(runs) > 1 and stop - start < min(size, 512) // 4:
                small.append(np.arange(start, stop))
                continue
            if small:
                tiles.append(np.concatenate(small))
                small = []
            tiles.append(np.s_[start:stop])
    return [*tiles, np.concatenate(small)] if small else tiles
