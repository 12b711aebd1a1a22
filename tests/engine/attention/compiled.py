"""The kernels' own text, compiled with the C++ compiler and called through ctypes.

What has been compiled is kept for the next run, in pytest's cache folder.
"""

import ctypes
import hashlib
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pensieve.engine.attention.kernels.geometry import Geometry, TileGeometry
from pensieve.engine.attention.kernels.hopper import HopperGeometry, HopperKernel
from pensieve.engine.attention.kernels.source import (
    APPEND,
    COMBINE,
    GATHER,
    LOG2_E,
    SPLIT,
    Kernel,
    header,
)
from pensieve.engine.attention.kernels.trimming import squeeze, trim

Array = npt.NDArray[Any]

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")

LIBRARIES = Path(__file__).parents[3] / ".pytest_cache" / "d" / "kernels"
FLAGS = ["-std=c++17", "-Wall", "-Werror", "-Wno-unused", "-shared", "-fPIC"]
"""And -O0 as a rule: without optimisation the compiler takes less than half the time."""

WATCHED = Path(__file__).with_name("watched.h")
HOPPER_WORDS = Path(__file__).with_name("hopper_words.h")

CTYPES = {"float32": "float", "float16": "float16_t", "bfloat16": "bfloat16_t"}
INTS = (
    "block_table",
    "splits",
    "tiles",
    "query_partials",
    "slots",
    "extent",
    "positions",
    "slots_before",
    "slots_after",
    "lengths",
    "experts",
    "chosen",
    "order",
    "pair_tiles",
)
FLOATS = (
    *("split_outs", "split_stats", "tile_outs", "tile_stats", "sinks", "write_fence", "next_fence"),
    *("periods", "numbers", "decays", "betas", "state", "next_state", "corrections", "shares"),
    *("gate_times", "gate_openings", "log_rates", "gate_biases", "inverses", "pairs", "factors"),
)
FIXED = dict.fromkeys(INTS, "int") | dict.fromkeys(FLOATS, "float")
"""The types of arguments that are not of the model's type."""


def build(
    geometry: Geometry, dtype: str, scale: float, has_sinks: bool = False, watched: bool = False
) -> ctypes.CDLL:
    """Compile all kernels for one layer's geometry.

    watched: count races for shared memory (`watched.h`), see `races`.
    """
    constants = geometry.constants | {"HAS_SINKS": int(has_sinks)}
    stored = "T" if geometry.packing is None else "uint8_t"
    kernels = (COMBINE,) if geometry.values_in_keys else (SPLIT, COMBINE, APPEND, GATHER)
    functions = "".join(_function(kernel, stored) for kernel in kernels)
    return _compile(_text(constants, scale, dtype, functions, watched))


def build_tiles(
    tiling: TileGeometry | HopperGeometry,
    kernel: Kernel,
    dtype: str,
    scale: float,
    window: int | None = None,
    watched: bool = False,
) -> ctypes.CDLL:
    """Compile the kernel of tiles; see `build`."""
    stored = "T" if tiling.head.packing is None else "uint8_t"
    constants = tiling.constants | {"WINDOW": window or 0}
    words = HOPPER_WORDS.read_text() if isinstance(kernel, HopperKernel) else ""
    return _compile(_text(constants, scale, dtype, words + _function(kernel, stored), watched))


def races(library: ctypes.CDLL) -> int:
    """How often two threads of a group have touched the same shared memory without a barrier between.

    Counts from the first load of the library in this process.
    """
    count: int = library.races()
    return count


def compile_kernel(
    kernel: Kernel,
    constants: dict[str, int],
    scale: float = 1.0,
    dtype: str = "float32",
    watched: bool = False,
    wide: tuple[str, ...] = (),
) -> ctypes.CDLL:
    """Compile one kernel with the constants that it is launched with.

    watched: see `build`. wide: arguments in float32 that are of the model's type otherwise.
    """
    return _compile(_text(constants, scale, dtype, _function(kernel, "T", wide), watched))


def compile_unaligned(kernel: Kernel, constants: dict[str, int], scale: float) -> ctypes.CDLL:
    """As `compile_kernel`, for MLX's arrays, unaligned as they are; optimised, as it is called often."""
    text = _text(constants, scale, "float32", _function(kernel, "T"), watched=False)
    return _compile(text.replace(" alignas(sizeof(E) * N)", ""), "-O2")


def _text(constants: dict[str, int], scale: float, dtype: str, functions: str, watched: bool) -> str:
    """The whole text, with those of the definitions that the functions need, as on a GPU."""
    assert min(constants.values(), default=0) >= 0, "MLX makes them a part of the kernel's name"
    text = (WATCHED.read_text() if watched else "") + f"typedef {CTYPES[dtype]} T;\n"
    text += "".join(f"constexpr int {name} = {value};\n" for name, value in constants.items())
    text += f"const float SCALE = {scale * LOG2_E!r};\n" + functions
    return trim(header("cpp"), text) + text


def _compile(text: str, level: str = "-O0") -> ctypes.CDLL:
    """Load the library of a text; compile it unless a run before, or another process, has done so."""
    key = hashlib.sha256("\n".join([_compiler(), *FLAGS, level, text]).encode()).hexdigest()
    library = LIBRARIES / f"{key}.so"
    if not library.exists():
        LIBRARIES.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=LIBRARIES) as folder:
            source, compiled = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
            source.write_text(text)
            subprocess.run(["c++", *FLAGS, level, "-o", compiled, source], check=True)
            compiled.replace(library)  # at once, so that no process loads a part of it
    return ctypes.CDLL(str(library))


@cache
def _compiler() -> str:
    """The compiler's version and target."""
    return subprocess.run(["c++", "-v"], capture_output=True, text=True, check=True).stderr


def _function(kernel: Kernel, stored: str, wide: tuple[str, ...] = ()) -> str:
    types = FIXED | {"keys": stored, "values": stored} | dict.fromkeys(wide, "float")
    inputs = [
        f"const {types.get(name, 'T')}* {name}, const int* {name}_shape, const INDEX* {name}_strides"
        for name in kernel.inputs
    ]
    outputs = [f"{FIXED.get(name, 'T')}* {name}" for name in kernel.outputs]
    loops = [f"for (int GROUP_{c} = 0; GROUP_{c} < groups_{c.lower()}; ++GROUP_{c})" for c in "YX"]
    groups = "\n".join(loops)
    parameters = ", ".join([*inputs, *outputs, "int groups_x", "int groups_y"])
    body = squeeze(kernel.body("cpp"))
    if isinstance(kernel, HopperKernel):
        body = f"run_group([&](const int TID) {{\n{body}}});"
    return f'extern "C" void run_{kernel.name}({parameters}) {{\n{groups} {{\n{body}\n}}\n}}\n'


def launch(
    library: ctypes.CDLL, kernel: Kernel, inputs: list[Array], outputs: list[Array], groups: tuple[int, int]
) -> None:
    """Run a kernel; groups: thread groups in x and y. Arrays must have the kernel's types."""
    arguments: list[Any] = []
    for array in inputs:
        assert array.flags.c_contiguous or kernel.takes_gaps
        shape = (ctypes.c_int * 4)(*array.shape)
        strides = (ctypes.c_longlong * 4)(*(each // array.itemsize for each in array.strides))
        arguments += [ctypes.c_void_p(array.ctypes.data), shape, strides]
    arguments += [ctypes.c_void_p(array.ctypes.data) for array in outputs]
    getattr(library, f"run_{kernel.name}")(*arguments, *groups)


def to_bits(values: npt.NDArray[np.float32], dtype: str) -> Array:
    """Values in the kernel's type; bfloat16 as its bits, cut off."""
    if dtype == "bfloat16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(dtype)


def from_bits(array: Array, dtype: str) -> npt.NDArray[np.float32]:
    if dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)
