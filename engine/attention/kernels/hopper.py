"""Tiles of prompts' slices on Hopper's matrix units (wgmma): constants and text. Knows nothing of arrays."""

from dataclasses import dataclass
from typing import Literal

from .geometry import Geometry
from .source import TILES, Constants, Kernel, Language, header

MatrixType = Literal["bf16", "f16"]
"""PTX's name of the type of queries, keys and values."""

ROWS = 128
"""Stacked rows of a tile: 64 for each of the two warp groups that multiply."""


@dataclass(frozen=True)
class HopperGeometry:
    """How a thread group divides a tile; tiles_hopper.h describes it."""

    head: Geometry

    @property
    def is_supported(self) -> bool:
        """Whether the kernel serves such heads: in pieces of 128 bytes, which the units read as they are."""
        head = self.head
        is_unpacked = head.itemsize == 2 and head.packing is None
        is_even = head.dim == head.value_dim and head.dim in (64, 128, 256) and head.group <= ROWS
        return head.has_splits and is_even and is_unpacked

    @property
    def threads(self) -> int:
        """Threads of a group: a warp group that loads, two that multiply."""
        return 384

    @property
    def queries(self) -> int:
        """Queries of a tile."""
        return ROWS // self.head.group

    @property
    def head_tiles(self) -> int:
        """Thread groups that share a KV head's query heads."""
        return 1

    @property
    def keys(self) -> int:
        """Tokens of an iteration: as many as a thread's registers and the shared memory hold."""
        return 128 if self.head.dim <= 128 else 64

    @property
    def stages(self) -> int:
        """Iterations whose keys and values lie in shared memory."""
        return 2

    @property
    def workspace_bytes(self) -> int:
        """Shared memory of a thread group: up to a multiple of 1024; queries, keys and values; barriers."""
        return 2048 + (ROWS + 2 * self.stages * self.keys) * self.head.dim * 2

    @property
    def constants(self) -> Constants:
        """The compile-time constants of tiles_hopper.h, but for the window."""
        names = ("DIM", "GROUP", "BLOCK")
        constants = {name: self.head.constants[name] for name in names}
        return constants | {"KEYS": self.keys, "STAGES": self.stages}

    def kernel(self, matrix_type: MatrixType) -> Kernel:
        """Return the kernel."""
        return HopperKernel(
            "tiles_hopper", TILES.inputs, TILES.outputs, geometry=self, matrix_type=matrix_type
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperKernel(Kernel):
    """The kernel for one geometry: PTX spells out every register of a product."""

    geometry: HopperGeometry
    matrix_type: MatrixType

    def header(self, language: Language) -> str:
        """Return the text before the function."""
        products = _product(self.geometry.keys, self.matrix_type, "scores")
        products += _product(self.geometry.head.dim, self.matrix_type, "sums")
        return header(language, "hopper") + products


def _product(columns: int, matrix_type: MatrixType, result: Literal["scores", "sums"]) -> str:
    """Return the function that adds a product of 64 x 16 and 16 x `columns` to a warp group's registers.

    Of scores both factors lie in shared memory. Of sums the left one, the weights, lies in registers, and
    the right one, the values, has the elements of a row of the product next to each other.
    """
    count = columns // 2
    function = "__device__ __forceinline__ void"
    registers = ", ".join(f"%{i}" for i in range(count))
    outputs = ", ".join(f'"+f"(sum[{i}])' for i in range(count))
    if result == "scores":
        parameter, left, inputs, switches = "uint64_t left", f"%{count}", '"l"(left)', "1, 1, 0, 0"
    else:
        parameter, switches = "const uint32_t (&left)[4]", "1, 1, 1"
        left = "{" + ", ".join(f"%{count + i}" for i in range(4)) + "}"
        inputs = ", ".join(f'"r"(left[{i}])' for i in range(4))
    right = count + (1 if result == "scores" else 4)
    return f"""
{function} multiply_{result}(float (&sum)[{count}], {parameter}, uint64_t right, int adds) {{
  asm volatile("{{ .reg .pred adds; setp.ne.b32 adds, %{right + 1}, 0; "
               "wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{matrix_type}.{matrix_type} "
               "{{{registers}}}, {left}, %{right}, adds, {switches}; }}"
               : {outputs} : {inputs}, "l"(right), "r"(adds));
}}
"""
