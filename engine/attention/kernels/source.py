"""Puts a kernel's text together: constants, prelude, body. Knows nothing of arrays."""

from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Literal

from ....cache.blocks import BLOCK_SIZE
from ....cache.kv import MIN_KERNEL_ELEMENTS
from ....cache.packing import Packing
from .tables import PartialColumn, SplitColumn, TileColumn

Language = Literal["metal", "cuda", "cpp"]
Constants = dict[str, int]

THREADS = 128
"""Threads of a group, in every kernel; the preludes define the same number."""

TOKENS = 4
"""Tokens that a subgroup loads before it uses the first; on an H200 better than two and than eight."""

MAX_REGISTERS = 64
"""Floats of queries, and as many of sums, that a thread holds; more would spill."""

METAL_GROUP_BYTES = 32768
"""Shared memory of a thread group on Metal."""

MAX_HEADS = 8
"""Query heads of one thread group; with more, a lane would keep scores of several heads."""

LOG2_E = 1.4426950408889634
"""Factor of the scores, so that the kernels compute powers of 2 in place of powers of e."""

# Index of the thread group and of the thread. MLX declares Metal's names only where the body mentions them.
POSITION = {
    "metal": """
        const int GROUP_X = threadgroup_position_in_grid.x, GROUP_Y = threadgroup_position_in_grid.y;
        const int TID = thread_position_in_threadgroup.x;
    """,
    "cuda": "const int GROUP_X = blockIdx.x, GROUP_Y = blockIdx.y, TID = threadIdx.x;\n",
    "cpp": "",
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel's name and its arguments, in order."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    takes_gaps: bool = False  # reads inputs by their strides; else MLX copies inputs that have gaps

    def body(self, language: Language) -> str:
        """Return the text inside the function."""
        return POSITION[language] + _read(self.name)

    def header(self, language: Language) -> str:
        """Return the text before the function."""
        return header(language)


SPLIT = Kernel(
    "split",
    ("queries", "new_keys", "new_values", "keys", "values", "block_table", "splits", "write_fence"),
    ("split_outs", "split_stats"),
)
COMBINE = Kernel(
    "combine",
    ("queries", "split_outs", "split_stats", "tile_outs", "tile_stats", "query_partials", "sinks"),
    ("result", "next_fence"),
)
TILES = Kernel(
    "tiles",
    ("queries", "keys", "values", "block_table", "tiles", "write_fence"),
    ("tile_outs", "tile_stats"),
)
APPEND = Kernel(
    "append", ("new_keys", "new_values", "keys", "values", "slots", "write_fence"), ("next_fence",)
)
GATHER = Kernel(
    "gather", ("keys", "values", "block_table", "extent", "write_fence"), ("joined_keys", "joined_values")
)


def header(language: Language, *more: str) -> str:
    """Return the text before a function. more: names of further files that it needs."""
    numbers = {"MIN_KERNEL_ELEMENTS": MIN_KERNEL_ELEMENTS}
    numbers |= {"SPLIT_COLUMNS": len(SplitColumn), "TILE_COLUMNS": len(TileColumn)}
    numbers |= {f"SPLIT_{column.name}": column.value for column in SplitColumn}
    numbers |= {f"TILE_{column.name}": column.value for column in TileColumn}
    numbers |= {f"PARTIAL_{column.name}": column.value for column in PartialColumn}
    defines = "".join(f"#define {name} {number}\n" for name, number in numbers.items())
    return defines + "".join(_read(name) for name in (language, "common", *more))


def _read(name: str) -> str:
    """Return a file's text without lines of comment: MLX copies the text whenever it queues a kernel."""
    lines = (files(__package__) / f"{name}.h").read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.lstrip().startswith("//"))


@dataclass(frozen=True)
class Geometry:
    """How a thread group divides the work on heads of one size; split.h draws it."""

    dim: int
    group: int  # query heads of a KV head
    itemsize: int  # bytes of an unpacked element
    packing: Packing | None = None

    @property
    def is_supported(self) -> bool:
        """Whether the kernels can serve heads of this geometry."""
        fits = self.packing is None or self.vector * self.packing.bits >= 8  # a chunk is whole bytes
        return self.dim <= 256 and self.dim % self.lanes == 0 and 1 <= self.group <= 16 and fits

    @property
    def lanes(self) -> int:
        """Threads of a subgroup, which share a token."""
        return 8 if self.dim < 128 else 16 if self.dim < 256 else 32

    @property
    def width(self) -> int:
        """Elements of a head that a lane holds."""
        return self.dim // self.lanes

    @property
    def vector(self) -> int:
        """Elements of a loaded chunk: up to 16 bytes when unpacked."""
        return next(n for n in (8, 4, 2, 1) if self.width % n == 0 and n * self.itemsize <= 16)

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
        return {
            "DIM": self.dim,
            "GROUP": self.group,
            "HEADS": self.heads,
            "LANES": self.lanes,
            "WIDTH": self.width,
            "VECTOR": self.vector,
            "TOKENS": TOKENS,
            "BLOCK": BLOCK_SIZE,
            "BITS": 0 if self.packing is None else self.packing.bits,
            "UNIT": 1 if self.packing is None else self.packing.group,
        }


@dataclass(frozen=True)
class TileGeometry:
    """How a thread group divides a tile; tiles.h describes it.

    On CUDA a warp takes two matrices of 16 rows of a prompt's slice, so that a staged key serves both; the
    queries lie in shared memory. Otherwise threads keep the queries in registers.
    """

    head: Geometry
    language: Language
    is_slice: bool  # whether the queries are a prompt's slice, thus many

    @property
    def is_supported(self) -> bool:
        """Whether tiles can be computed for such heads."""
        is_matrix_type = self.head.itemsize == 2 or self.language != "cuda"
        fits = self.language != "metal" or self.workspace_bytes <= METAL_GROUP_BYTES
        return self.head.is_supported and self.head.dim % 16 == 0 and is_matrix_type and fits

    @property
    def threads(self) -> int:
        """Threads of a group."""
        return THREADS

    @property
    def row_tiles(self) -> int:
        """Matrices of 16 rows that a warp has."""
        return 2 if self.is_slice and self.language != "metal" and self.head.dim <= 128 else 1

    @property
    def rows(self) -> int:
        """Stacked rows of a tile: query heads of a KV head times queries."""
        return THREADS // 32 * self.row_tiles * 16

    @property
    def queries(self) -> int:
        """Queries of a tile."""
        return self.rows // self.head.group

    @property
    def holds_queries(self) -> bool:
        """Whether threads keep their queries in registers."""
        return self.row_tiles == 1

    @property
    def keys(self) -> int:
        """Tokens of an iteration: on Metal as many as the shared memory has room for, but 16 at least."""
        if self.language != "metal":
            return 64 if self.head.dim <= 128 else 32
        return 32 if 64 * self._pitch_bytes <= METAL_GROUP_BYTES else 16

    @property
    def vector(self) -> int:
        """Elements of a loaded chunk: 16 bytes when unpacked, fewer where packed ones would not align."""
        most, packing = 16 // self.head.itemsize, self.head.packing
        if packing is None:
            return most
        return next(n for n in (most, most // 2) if packing.row_bytes * 8 % (n * packing.bits) == 0)

    @property
    def _pitch_bytes(self) -> int:
        return (self.head.dim + 8) * self.head.itemsize

    @property
    def workspace_bytes(self) -> int:
        """Shared memory of a thread group."""
        return (2 * self.keys + (0 if self.holds_queries else self.rows)) * self._pitch_bytes

    @property
    def constants(self) -> Constants:
        """The compile-time constants of tiles.h, but for the window."""
        return self.head.constants | {
            "VECTOR": self.vector,
            "WARPS": THREADS // 32,
            "ROW_TILES": self.row_tiles,
            "HOLD_QUERIES": int(self.holds_queries),
            "KEYS": self.keys,
        }
