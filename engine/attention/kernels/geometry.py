"""How a thread group divides the work on heads of one size: the compile-time constants of the bodies."""

from dataclasses import dataclass
from functools import cached_property

from ....cache.blocks import BLOCK_SIZE
from ....cache.packing import Packing
from .source import THREADS, Constants, Language

TOKENS = 4
"""Tokens that a subgroup loads before it uses the first; on an H200 better than two and than eight."""

MAX_REGISTERS = 64
"""Floats of queries, and as many of sums, that a thread holds; more would spill."""

MAX_HEADS = 8
"""Query heads of one thread group; with more, a lane would keep scores of several heads."""

MIN_USE = 0.75
"""Share of a tile's rows that are used where heads are divided among tiles for the sake of it."""

MAX_DIM = 512
"""Elements of the widest head that kernels serve; keys that contain their values may be wider than these."""

METAL_GROUP_BYTES = 32768
"""Shared memory of a thread group on Metal."""

WARPS = THREADS // 32


@dataclass(frozen=True)
class Geometry:
    """Heads of one size, and how a thread group of split.h, which draws it, divides the work on them."""

    dim: int  # elements of a head's query and key
    group: int  # query heads of a KV head
    itemsize: int  # bytes of an unpacked element
    packing: Packing | None = None  # of keys
    own_value_dim: int | None = None  # elements of a head's value; None for as many as a key has
    values_in_keys: bool = False  # whether a value is its key's first elements, which the pool holds once

    @property
    def value_dim(self) -> int:
        """Elements of a head's value."""
        return self.dim if self.own_value_dim is None else self.own_value_dim

    @property
    def value_packing(self) -> Packing | None:
        """How the rows that values are read from are quantised, or None."""
        if self.packing is None or self.values_in_keys:
            return self.packing
        return Packing(self.value_dim, self.packing.bits, self.packing.item_bytes)

    @property
    def has_splits(self) -> bool:
        """Whether split.h serves such heads. Values in keys are left to tiles.h, which loads a row once."""
        fits = self.packing is None or self.vector * self.packing.bits >= 8  # a chunk is whole bytes
        dims = self.dim, self.value_dim
        is_even = all(0 < dim <= MAX_DIM and dim % self.lanes == 0 for dim in dims)
        return not self.values_in_keys and is_even and self.value_dim % 4 == 0 and self.group >= 1 and fits

    @property
    def lanes(self) -> int:
        """Threads of a subgroup, which share a token."""
        return 8 if self.dim < 128 else 16 if self.dim < 256 else 32

    @property
    def width(self) -> int:
        """Elements of a key that a lane holds."""
        return self.dim // self.lanes

    @property
    def value_width(self) -> int:
        """Elements of a value that a lane holds."""
        return self.value_dim // self.lanes

    @property
    def vector(self) -> int:
        """Elements of a loaded chunk: up to 16 bytes when unpacked."""
        widths = self.width, self.value_width
        sizes = (n for n in (8, 4, 2, 1) if n * self.itemsize <= 16)
        return next(n for n in sizes if not any(width % n for width in widths))

    @cached_property
    def tiles(self) -> int:
        """Thread groups that share a KV head's query heads."""
        return max(-(-self.group * self.width // MAX_REGISTERS), -(-self.group // MAX_HEADS))

    @property
    def heads(self) -> int:
        """Query heads that one thread group takes."""
        return -(-self.group // self.tiles)

    @property
    def constants(self) -> Constants:
        """The compile-time constants of the bodies."""
        keys, values = self.packing, self.value_packing
        return {
            "DIM": self.dim,
            "VALUE_DIM": self.value_dim,
            "VALUES_IN_KEYS": int(self.values_in_keys),
            "GROUP": self.group,
            "HEADS": self.heads,
            "LANES": self.lanes,
            "WIDTH": self.width,
            "VALUE_WIDTH": self.value_width,
            "VECTOR": self.vector,
            "TOKENS": TOKENS,
            "BLOCK": BLOCK_SIZE,
            "BITS": 0 if keys is None else keys.bits,
            "UNIT": 1 if keys is None else keys.group,
            "VALUE_UNIT": 1 if values is None else values.group,
        }


@dataclass(frozen=True)
class TileGeometry:
    """How a thread group divides a tile; tiles.h describes it.

    The warps divide the rows of a tile. Where heads are wider than 256, each warp takes a quarter of the
    columns of all rows instead: no thread could hold the sums of whole rows.
    On CUDA a warp takes two matrices of 16 rows of a prompt's slice, so that a staged key serves both; the
    queries lie in shared memory. Otherwise threads keep the queries in registers.
    """

    head: Geometry
    language: Language
    is_slice: bool  # whether the queries are a prompt's slice, thus many
    is_single: bool = False  # whether a tile is a split of a decode row, which has one query

    @property
    def is_supported(self) -> bool:
        """Whether tiles can be computed for such heads."""
        head = self.head
        is_matrix_type = head.itemsize == 2 or self.language != "cuda"
        fits = self.language != "metal" or self.workspace_bytes + self.part_bytes <= METAL_GROUP_BYTES
        columns = 16 * self.column_warps
        is_even = head.dim % columns == 0 and head.value_dim % columns == 0
        is_known = head.has_splits or (head.values_in_keys and head.value_dim <= min(MAX_DIM, head.dim))
        return is_known and is_even and is_matrix_type and fits

    @property
    def threads(self) -> int:
        """Threads of a group."""
        return THREADS

    @property
    def column_warps(self) -> int:
        """Warps that divide the columns of a row."""
        return WARPS if max(self.head.dim, self.head.value_dim) > 256 else 1

    @property
    def row_tiles(self) -> int:
        """Matrices of 16 rows that a warp has."""
        if self.language == "metal":  # whose threads have half the registers of CUDA's
            return 1
        if self.column_warps > 1:
            return 2
        return 2 if self.is_slice and self.head.dim <= 192 and self.head.value_dim <= 128 else 1

    @property
    def rows(self) -> int:
        """Stacked rows of a tile: query heads of a KV head times queries."""
        return WARPS // self.column_warps * self.row_tiles * 16

    @property
    def head_tiles(self) -> int:
        """Thread groups that share a KV head's query heads: few, but such that most rows are used.

        20 heads leave 12 of 32 rows unused; in two parts of 10, three queries use 30.
        """
        group = self.head.group
        counts = range(-(-group // self.rows), group + 1)
        if self.is_single:
            return counts[0]
        return next(n for n in counts if self.rows // -(-group // n) * group >= MIN_USE * self.rows * n)

    @property
    def heads(self) -> int:
        """Query heads of a tile."""
        return -(-self.head.group // self.head_tiles)

    @property
    def queries(self) -> int:
        """Queries of a tile."""
        return 1 if self.is_single else self.rows // self.heads

    @property
    def holds_queries(self) -> bool:
        """Whether threads keep their queries in registers."""
        return self.row_tiles == 1

    @property
    def keys(self) -> int:
        """Tokens of an iteration: on Metal as many as the shared memory has room for, but 16 at least.

        Wide heads elsewhere: as many as let two thread groups of the same multiprocessor run.
        """
        if self.language == "metal":
            is_narrow = self.column_warps == 1 and 64 * self._pitch_bytes <= METAL_GROUP_BYTES
            return 32 if is_narrow else 16
        if self.column_warps > 1:
            return 32 if self.head.values_in_keys else 16
        return 64 if self.row_tiles == 2 or self.head.dim <= 128 else 32

    @property
    def vector(self) -> int:
        """Elements of a loaded chunk: 16 bytes when unpacked, fewer where packed ones would not align."""
        most = 16 // self.head.itemsize
        packings = [each for each in (self.head.packing, self.head.value_packing) if each is not None]
        are_aligned = all(each.row_bytes * 8 % (most * each.bits) == 0 for each in packings)
        return most if are_aligned else most // 2

    @property
    def has_one_buffer(self) -> bool:
        """Whether values lie in keys, or take their place in shared memory: Metal has no room for both."""
        return self.head.values_in_keys or (self.language == "metal" and self.column_warps > 1)

    @property
    def _pitch_bytes(self) -> int:
        return (self.head.dim + 8) * self.head.itemsize

    @property
    def workspace_bytes(self) -> int:
        """Shared memory of a thread group, but for the parts of scores."""
        values = 0 if self.has_one_buffer else (self.head.value_dim + 8) * self.head.itemsize
        queries = 0 if self.holds_queries else self.rows * self._pitch_bytes
        return queries + self.keys * (self._pitch_bytes + values)

    @property
    def part_bytes(self) -> int:
        """Shared memory for the parts of scores, which warps that divide columns add up."""
        return 4 * self.rows * self.keys * self.column_warps if self.column_warps > 1 else 0

    @property
    def constants(self) -> Constants:
        """The compile-time constants of tiles.h, but for the window."""
        return self.head.constants | {
            "VECTOR": self.vector,
            "WARPS": WARPS,
            "COLUMN_WARPS": self.column_warps,
            "ROW_TILES": self.row_tiles,
            "HEADS": self.heads,
            "HEAD_TILES": self.head_tiles,
            "TILE_QUERIES": self.queries,
            "HOLD_QUERIES": int(self.holds_queries),
            "ONE_BUFFER": int(self.has_one_buffer),
            "KEYS": self.keys,
        }
