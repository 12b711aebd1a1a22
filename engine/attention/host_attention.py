"""Paged attention in NumPy, for MLX's CPU device, where NumPy is several times faster than MLX.

Online softmax over tiles of keys (Milakov & Gimelshein 2018; FlashAttention, Dao et al. 2022). Slots that
several rows share take one matmul for all of these rows. Threads divide the KV heads and tiles of queries;
where a decode batch has fewer heads than there are threads, as latent attention has, they divide the slots.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from ...cache.kv import Pool
from ..step import SlotRange
from .array_attention import AttentionParams
from .shared_prefixes import SharedPrefix, divide_prefixes

Floats = npt.NDArray[np.float32]
Index = slice | npt.NDArray[np.int64]
"""Slots or rows, as NumPy is indexed with them."""

QUERY_TILE = 1024
"""Queries of a tile, counted over the query heads of a KV head."""

MIN_QUERY_TILE = 128
"""Queries below which a tile is not made smaller, that more threads have one."""

SCORES_TILE = 512 * QUERY_TILE
"""Scores of a tile: 2 MB, to stay in the processor's cache."""

UNPACKED_TILE = 2048
"""Slots of quantised KV unpacked at a time: 1 MB of heads of 128."""

SMALL_SCORES = 20_000
"""Scores of one KV head below which more threads cost more than they save."""


class HostAttention:
    """Attends with several heads at a time: NumPy computes without the GIL, on one core a call."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="attention")

    def attend(
        self,
        queries: Floats,
        keys: Pool,
        values: Pool,
        prefixes: list[SharedPrefix],
        params: AttentionParams,
    ) -> Floats:
        """Attend to paged KV.

        queries: (rows, num_heads, length, key_dim); one row where length > 1, causal over its last slots.
        keys, values: pools of one layer, (num_kv_heads, slots, dim).
        prefixes: the rows' slots; under a window, without slots that no query sees.
        Returns (rows, num_heads, length, value_dim).
        """
        num_rows, num_heads, length, dim = queries.shape
        num_kv_heads = keys.shape[0]
        assert num_rows == 1 or length == 1, "prefill has one row"
        scaled = queries if params.scale == 1 else queries * np.float32(params.scale)
        grouped = scaled.reshape(num_rows, num_kv_heads, -1, dim)
        out = np.empty((*grouped.shape[:3], values.shape[2]), np.float32)
        num_queries = grouped.shape[2]
        sinks = _sinks_by_query(params, num_kv_heads, length)
        pools = [KvHead.of(keys, values, head) for head in range(num_kv_heads)]
        num_scores = sum(len(prefix.rows) * prefix.num_slots for prefix in prefixes) * num_queries
        is_small = num_scores < SMALL_SCORES
        size = QUERY_TILE if length == 1 else self._tile_size(num_kv_heads, num_queries)
        tiles = [slice(start, start + size) for start in range(0, num_queries, size)]
        tiles_of_heads = list(product(range(num_kv_heads), tiles))
        num_parts = 1 if is_small or length > 1 else max(1, self._num_threads // len(tiles_of_heads))
        parts = [prefixes] if num_parts == 1 else divide_prefixes(prefixes, num_parts)

        def attend_part(task: tuple[int, slice, int]) -> Softmax:
            head, tile, index = task
            own_sinks = None if sinks is None or index else sinks[head, tile]
            softmax = Softmax(grouped[:, head, tile], values.shape[2], own_sinks)
            visible = None
            if length > 1:
                visible = VisibleSlots.of(np.arange(num_queries)[tile], length, prefixes, params.window)
            for prefix in parts[index]:
                softmax.add(prefix, pools[head], visible)
            return softmax

        map_tasks = map if is_small else self._threads.map
        done = map_tasks(attend_part, product(range(num_kv_heads), tiles, range(len(parts))))
        for head, tile in tiles_of_heads:
            out[:, head, tile] = Softmax.merged([next(done) for _ in parts]).result()
        return out.reshape(num_rows, num_heads, length, -1)

    def _tile_size(self, num_kv_heads: int, num_queries: int) -> int:
        """Return the queries of a slice's tile: fewer where there are more threads than KV heads."""
        tiles_of_head = -(-self._num_threads // num_kv_heads)
        return min(QUERY_TILE, max(MIN_QUERY_TILE, -(-num_queries // tiles_of_head)))


@dataclass(frozen=True, slots=True)
class KvHead:
    """The keys and values of one KV head, both (slots, dim)."""

    keys: Pool
    values: Pool | None  # None where a token's values are the first elements of its keys

    @classmethod
    def of(cls, keys: Pool, values: Pool, head: int) -> "KvHead":
        """Return one head of a layer's pools."""
        return cls(keys.head(head), None if values.rows is keys.rows else values.head(head))

    def read(self, tile: Index, value_dim: int) -> tuple[Floats, Floats]:
        """Return the keys and values of a tile of slots; unpacked once where both are one array."""
        keys = self.keys[tile]
        return keys, keys[:, :value_dim] if self.values is None else self.values[tile]


def _sinks_by_query(params: AttentionParams, num_kv_heads: int, length: int) -> Floats | None:
    """Return each query's sink, (kv_heads, queries of a row)."""
    if params.sinks is None:
        return None
    return np.repeat(np.asarray(params.sinks, np.float32).reshape(num_kv_heads, -1), length, axis=1)


@dataclass(frozen=True, slots=True)
class VisibleSlots:
    """The slots that each query of a slice sees; slots are numbered in token order, from 0."""

    first: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]  # the number after the last visible slot

    @classmethod
    def of(
        cls, queries: npt.NDArray[np.int64], length: int, prefixes: list[SharedPrefix], window: int | None
    ) -> "VisibleSlots":
        """Return the slots that a tile of queries sees.

        queries: the tile's queries, numbered head after head, with `length` queries a head.
        """
        total = sum(prefix.num_slots for prefix in prefixes)
        end = queries % length - length + 1 + total
        return cls(end - (window or total), end)

    def hides_all(self, first: int, end: int) -> bool:
        """Whether no query sees any of the slots from `first` to `end`."""
        return bool(first >= self.end.max() or end <= self.first.min())

    def hide(self, scores: Floats, first: int) -> None:
        """Set to -inf, in place, the scores of slots that a query does not see. Column 0 is slot `first`."""
        end = first + scores.shape[1]
        index = np.arange(first, end)
        if end > self.end.min():
            scores[index >= self.end[:, None]] = -np.inf
        if first < self.first.max():
            scores[index < self.first[:, None]] = -np.inf


class Softmax:
    """The running softmax of one KV head: each query's peak score, mass and weighted sum of values."""

    def __init__(self, queries: Floats, value_dim: int, sinks: Floats | None = None) -> None:
        """queries: (rows, queries of a row, key_dim), scaled. sinks: (queries of a row,)"""
        self._queries = queries
        self._value_dim = value_dim
        shape = queries.shape[:2]
        self._peak = np.full((*shape, 1), -1e30, np.float32)
        self._mass = np.zeros((*shape, 1), np.float32)
        self._out = np.zeros((*shape, value_dim), np.float32)
        self._num_added = 0  # slots; used only where there is one row
        if sinks is not None:
            self._peak[:] = sinks[:, None]
            self._mass[:] = 1

    def add(self, prefix: SharedPrefix, pool: KvHead, visible: VisibleSlots | None) -> None:
        """Let the prefix's rows attend to its slots.

        visible: of a slice's queries; None where all see all slots.
        """
        all_rows = len(prefix.rows) == len(self._queries)
        rows: Index = np.s_[:] if all_rows else np.array(prefix.rows)
        queries = self._queries[rows].reshape(-1, self._queries.shape[2])
        state = [a[rows].reshape(len(queries), -1) for a in (self._peak, self._mass, self._out)]
        most = SCORES_TILE if pool.keys.packing is None else len(queries) * UNPACKED_TILE
        for tile, size in _tiles(prefix.slot_ranges, max(1, min(most, SCORES_TILE) // len(queries))):
            first, self._num_added = self._num_added, self._num_added + size
            if visible is not None and visible.hides_all(first, self._num_added):
                continue
            keys, values = pool.read(tile, self._value_dim)
            scores = queries @ keys.T
            if visible is not None:
                visible.hide(scores, first)
            _absorb(state, scores, values)
        for array, part in zip((self._peak, self._mass, self._out), state, strict=True):
            array[rows] = part.reshape(array[rows].shape)

    @classmethod
    def merged(cls, parts: list["Softmax"]) -> "Softmax":
        """Add to the first of `parts`, all of the same queries, what the others have seen; return it."""
        merged, *others = parts
        for other in others:
            peak = np.maximum(merged._peak, other._peak)
            for part in (merged, other):
                shrink = np.exp(part._peak - peak)
                part._mass *= shrink
                part._out *= shrink
            merged._peak = peak
            merged._mass += other._mass
            merged._out += other._out
        return merged

    def result(self) -> Floats:
        """Return the attention's output, (rows, queries of a row, value_dim)."""
        return np.divide(self._out, self._mass, dtype=np.float32)


def _absorb(state: list[Floats], scores: Floats, values: Floats) -> None:
    """Add a tile of scores to (peak, mass, out), in place; overwrites the scores."""
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


def _tiles(slot_ranges: tuple[SlotRange, ...], size: int) -> list[tuple[Index, int]]:
    """Cut slot ranges into (index, number of slots), at most `size` slots each.

    An index is a slice, which reads a view; small ranges that follow one another are gathered by one array.
    """
    tiles: list[tuple[Index, int]] = []
    small: list[npt.NDArray[np.int64]] = []
    for first, end in slot_ranges:
        for start in range(first, end, size):
            stop = min(end, start + size)
            if len(slot_ranges) > 1 and stop - start < min(size, 512) // 4:
                small.append(np.arange(start, stop))
                continue
            if small:
                tiles.append(_gathered(small))
                small = []
            tiles.append((np.s_[start:stop], stop - start))
    return [*tiles, _gathered(small)] if small else tiles


def _gathered(parts: list[npt.NDArray[np.int64]]) -> tuple[Index, int]:
    joined = np.concatenate(parts)
    return joined, len(joined)
