"""The kernels' own text, compiled with the C++ compiler and called through ctypes."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pensieve.engine.attention.kernels.paged_kernels import SHARED_PEAK_MARGIN
from pensieve.engine.attention.kernels.source import (
    APPEND,
    COMBINE,
    GATHER,
    LOG2_E,
    SOFTMAX,
    SPLIT,
    Geometry,
    Kernel,
    header,
)

Array = npt.NDArray[Any]

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")

WATCHED = Path(__file__).with_name("watched.h")

CTYPES = {"float32": "float", "float16": "float16_t", "bfloat16": "bfloat16_t"}
INTS = ("block_table", "splits", "row_partials", "slots", "extent")
FLOATS = ("split_outs", "split_stats", "stats", "shared_stats", "sinks", "write_fence", "next_fence")
FIXED = dict.fromkeys(INTS, "int") | dict.fromkeys(FLOATS, "float")
"""The types of arguments that are not of the model's type."""


def build(
    folder: Path, geometry: Geometry, dtype: str, scale: float, has_sinks: bool = False, watched: bool = False
) -> ctypes.CDLL:
    """Compile all kernels for one layer's geometry.

    watched: count races for shared memory (`watched.h`), see `races`.
    """
    constants = geometry.constants | {"HAS_SINKS": int(has_sinks), "MARGIN": SHARED_PEAK_MARGIN}
    stored = "T" if geometry.packing is None else "uint8_t"
    text = header("cpp") + (WATCHED.read_text() if watched else "") + f"typedef {CTYPES[dtype]} T;\n"
    text += "".join(f"constexpr int {name} = {value};\n" for name, value in constants.items())
    text += f"const float SCALE = {scale * LOG2_E!r};\n"
    text += "".join(_function(kernel, stored) for kernel in (SPLIT, COMBINE, SOFTMAX, APPEND, GATHER))
    return _compile(folder, "kernels", text)


def races(library: ctypes.CDLL) -> int:
    """How often two threads of a group have touched the same shared memory without a barrier between."""
    count: int = library.races()
    return count


def compile_kernel(folder: Path, kernel: Kernel, constants: dict[str, int], scale: float) -> ctypes.CDLL:
    """Compile one kernel for float32 with the constants that it is launched with."""
    text = header("cpp") + "typedef float T;\n"
    text += "".join(f"constexpr int {name} = {value};\n" for name, value in constants.items())
    text += f"const float SCALE = {scale * LOG2_E!r};\n" + _function(kernel, "T")
    name = f"{kernel.name}{len(list(folder.iterdir()))}"
    return _compile(folder, name, text)


def _compile(folder: Path, name: str, text: str) -> ctypes.CDLL:
    source, library = folder / f"{name}.cpp", folder / f"{name}.so"
    source.write_text(text)
    flags = ["-std=c++17", "-O2", "-Wall", "-Werror", "-Wno-unused", "-shared", "-fPIC"]
    subprocess.run(["c++", *flags, "-o", library, source], check=True)
    return ctypes.CDLL(str(library))


def _function(kernel: Kernel, stored: str) -> str:
    types = FIXED | {"keys": stored, "values": stored}
    inputs = [f"const {types.get(name, 'T')}* {name}, const int* {name}_shape" for name in kernel.inputs]
    outputs = [f"{FIXED.get(name, 'T')}* {name}" for name in kernel.outputs]
    loops = [f"for (int GROUP_{c} = 0; GROUP_{c} < groups_{c.lower()}; ++GROUP_{c})" for c in "YX"]
    groups = "\n".join(loops)
    parameters = ", ".join([*inputs, *outputs, "int groups_x", "int groups_y"])
    return f'extern "C" void run_{kernel.name}({parameters}) {{\n{groups} {{\n{kernel.body("cpp")}\n}}\n}}\n'


def launch(
    library: ctypes.CDLL, kernel: Kernel, inputs: list[Array], outputs: list[Array], groups: tuple[int, int]
) -> None:
    """Run a kernel; groups: thread groups in x and y. Arrays must have the kernel's types."""
    arguments: list[Any] = []
    for array in inputs:
        assert array.flags.c_contiguous
        shape = (ctypes.c_int * 4)(*array.shape)
        arguments += [ctypes.c_void_p(array.ctypes.data), shape]
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
