"""Puts a kernel's text together: constants, prelude, body. Knows nothing of arrays."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from ....cache.kv import MIN_KERNEL_ELEMENTS
from .tables import PartialColumn, SplitColumn, TileColumn

Language = Literal["metal", "cuda", "cpp"]
Constants = dict[str, int]

THREADS = 128
"""Threads of a group, unless a kernel has its own number; the preludes define the same."""

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
    files: tuple[str, ...] = ()  # of the body; empty for the one of the kernel's name

    def body(self, language: Language) -> str:
        """Return the text inside the function."""
        return POSITION[language] + "".join(_read(name) for name in self.files or (self.name,))

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
SPLIT_TILES = Kernel(
    "split_tiles",
    ("queries", "new_keys", "keys", "values", "block_table", "tiles", "write_fence"),
    ("tile_outs", "tile_stats"),
    files=("store_newest", "tiles"),
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
