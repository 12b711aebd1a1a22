"""Puts a kernel's text together: prelude, constants, body. Knows nothing of arrays."""

from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Literal

from ....cache.blocks import BLOCK_SIZE
from ....cache.packing import Packing

Language = Literal["metal", "cuda", "cpp"]
Constants = dict[str, int]

THREADS = 128
"""Threads of a group, in every kernel; the preludes say the same."""

TOKENS = 4
"""Tokens a team of lanes loads before it uses the first; on an H200 better than two and than eight."""

MAX_REGISTERS = 64
"""Floats of queries, and as many of sums, that a thread keeps; more would spill."""

MAX_HEADS = 8
"""Query heads of one thread group: more, and a lane would keep scores of several."""

LOG2_E = 1.4426950408889634

# Where a group and a thread stand; MLX declares Metal's names only where the body mentions them.
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

    def body(self, language: Language) -> str:
        """The text of the function."""
        return POSITION[language] + _read(self.name)


SPLIT = Kernel(
    "split",
    ("queries", "new_keys", "new_values", "keys", "values", "table", "items", "after"),
    ("outs", "stats"),
)
COMBINE = Kernel("combine", ("outs", "stats", "extra", "extra_stats", "ranges", "sinks"), ("result", "done"))
SOFTMAX = Kernel("softmax", ("scores",), ("weights", "stats"))
APPEND = Kernel("append", ("new_keys", "new_values", "keys", "values", "slots", "after"), ("done",))
GATHER = Kernel("gather", ("keys", "values", "table", "extent", "after"), ("joined_keys", "joined_values"))


def header(language: Language) -> str:
    """The text before the function."""
    return _read(language) + _read("common")


def _read(name: str) -> str:
    return (files(__package__) / f"{name}.h").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Geometry:
    """How a group's threads share the work on heads of one size."""

    dim: int
    group: int  # query heads of a KV head
    itemsize: int  # bytes of an element, when it is not packed
    packing: Packing | None = None

    @property
    def is_supported(self) -> bool:
        fits = self.packing is None or self.vector * self.packing.bits >= 8  # whole bytes
        return self.dim <= 256 and self.dim % self.lanes == 0 and 1 <= self.group <= 16 and fits

    @property
    def lanes(self) -> int:
        """Threads that share a token."""
        return 8 if self.dim < 128 else 16 if self.dim < 256 else 32

    @property
    def width(self) -> int:
        """Elements of a head that a thread keeps."""
        return self.dim // self.lanes

    @property
    def vector(self) -> int:
        """Elements loaded at a time: up to 16 bytes, before they are packed."""
        return next(n for n in (8, 4, 2, 1) if self.width % n == 0 and n * self.itemsize <= 16)

    @cached_property
    def tiles(self) -> int:
        """Thread groups that share a KV head's query heads."""
        return max(-(-self.group * self.width // MAX_REGISTERS), -(-self.group // MAX_HEADS))

    @property
    def heads(self) -> int:
        """Query heads of one thread group."""
        return -(-self.group // self.tiles)

    @property
    def constants(self) -> Constants:
        """What the bodies take as compile-time constants."""
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
