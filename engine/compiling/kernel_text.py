"""The text that MLX makes of a CUDA kernel, and the name under which MLX looks for it among its files.

MLX compiles a kernel of `mx.fast.cuda_kernel` at its first launch in each process and does not keep it, but
looks first for a file of the module's name, which holds a hash of the text. The rules are those of MLX 0.32
(`custom_kernel.cpp`, `jit_module.cpp`). With other rules the hash is another, and MLX compiles by itself.
"""

from typing import NamedTuple

import mlx.core as mx

PRELUDE = """
#include "mlx/backend/cuda/device/utils.cuh"

#include <cooperative_groups.h>

"""
"""What MLX puts before a kernel's own header."""

NAMESPACE = "mlx::core::cu"

DTYPE_NAMES = {
    mx.bool_: ("bool", "bool"),
    mx.int8: ("int8_t", "int8_t"),
    mx.int16: ("int16_t", "int16_t"),
    mx.int32: ("int32_t", "int32_t"),
    mx.int64: ("int64_t", "int64_t"),
    mx.uint8: ("uint8_t", "uint8_t"),
    mx.uint16: ("uint16_t", "uint16_t"),
    mx.uint32: ("uint32_t", "uint32_t"),
    mx.uint64: ("uint64_t", "uint64_t"),
    mx.float16: ("__half", "float16_t"),
    mx.bfloat16: ("__nv_bfloat16", "bfloat16_t"),
    mx.float32: ("float", "float"),
}
"""How MLX writes a type in a kernel's text, and in its name."""

WORD = (1 << 64) - 1
MULTIPLIER = 0xC6A4A7935BD1E995
SEED = 0xC70F6907

Constant = bool | int | mx.Dtype
Template = tuple[tuple[str, Constant], ...]


class Declaration(NamedTuple):
    """What MLX is told of a kernel once."""

    name: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    header: str
    source: str


class LaunchTypes(NamedTuple):
    """What MLX learns of a kernel at a launch, as far as its text depends on it."""

    template: Template
    inputs: tuple[tuple[mx.Dtype, bool], ...]  # of each: its type, and whether it has dimensions
    output_dtypes: tuple[mx.Dtype, ...]


class KernelText(NamedTuple):
    """A kernel as NVRTC compiles it."""

    function: str
    text: str

    @property
    def module_name(self) -> str:
        """The name of the files, without their suffixes."""
        return f"{self.function}_{standard_hash(self.text.encode()):x}"

    @property
    def expression(self) -> str:
        """The function's name with its namespace, for which NVRTC tells the mangled one."""
        return f"{NAMESPACE}::{self.function}"


def kernel_text(declaration: Declaration, usage: LaunchTypes) -> KernelText:
    """Return the text of one use of a kernel. Raises KeyError for a type that MLX's kernels do not take."""
    function = f"custom_kernel_{declaration.name}" + "".join(f"_{_tag(value)}" for _, value in usage.template)
    constants = "".join(f"  {_constant(name, value)};\n" for name, value in usage.template)
    parts = [
        f"{PRELUDE}{declaration.header}namespace {NAMESPACE} {{\n\n",
        f"namespace cg = cooperative_groups;\n\n__global__ void {function}(\n",
        ",\n".join(_arguments(declaration, usage)) + ") {\n",
        constants + "\n" if constants else "",
        f"{declaration.source}\n}}\n\n}} // namespace {NAMESPACE}\n",
    ]
    return KernelText(function, "".join(parts))


def _arguments(declaration: Declaration, usage: LaunchTypes) -> list[str]:
    """Return the function's parameters: inputs, each with what the source names of its shape; outputs."""
    lines = []
    for name, (dtype, has_dims) in zip(declaration.input_names, usage.inputs, strict=True):
        lines.append(f"    const {DTYPE_NAMES[dtype][0]}* {name}")
        for kind, suffix in (("Shape", "shape"), ("Strides", "strides"), ("int", "ndim")):
            if has_dims and f"{name}_{suffix}" in declaration.source:
                lines.append(f"    const __grid_constant__ {kind} {name}_{suffix}")
    outputs = zip(declaration.output_names, usage.output_dtypes, strict=True)
    return lines + [f"    {DTYPE_NAMES[dtype][0]}* {name}" for name, dtype in outputs]


def _tag(value: Constant) -> str:
    """Return a constant as a part of a function's name."""
    if isinstance(value, bool):
        return "t" if value else "f"
    return str(value) if isinstance(value, int) else DTYPE_NAMES[value][1]


def _constant(name: str, value: Constant) -> str:
    """Return the declaration of a constant in a function's text."""
    if isinstance(value, bool):
        return f"constexpr bool {name} = {str(value).lower()}"
    if isinstance(value, int):
        return f"constexpr int {name} = {value}"
    return f"using {name} = {DTYPE_NAMES[value][0]}"


def standard_hash(data: bytes) -> int:
    """Return the `std::hash<std::string>` of GNU's C++ library: MurmurHash64A with a seed of its own."""
    whole = len(data) & ~7
    found = SEED ^ (len(data) * MULTIPLIER & WORD)
    for at in range(0, whole, 8):
        word = _mixed(int.from_bytes(data[at : at + 8], "little") * MULTIPLIER & WORD) * MULTIPLIER & WORD
        found = (found ^ word) * MULTIPLIER & WORD
    if rest := data[whole:]:
        found = (found ^ int.from_bytes(rest, "little")) * MULTIPLIER & WORD
    return _mixed(_mixed(found) * MULTIPLIER & WORD)


def _mixed(value: int) -> int:
    return value ^ value >> 47
