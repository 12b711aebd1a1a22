"""The names of files must be MLX's to the letter, or MLX does not find them."""

import random
import shutil
import subprocess
from pathlib import Path

import mlx.core as mx
import pytest

from pensieve.engine.compiling.kernel_text import Declaration, LaunchTypes, kernel_text, standard_hash

HASHES = """
#include <cstdint>
#include <iostream>
#include <string>
int main() {
  uint32_t size;
  while (std::cin.read(reinterpret_cast<char*>(&size), 4)) {
    std::string text(size, 0);
    std::cin.read(text.data(), size);
    std::cout << std::hash<std::string>{}(text) << "\\n";
  }
}
"""

DECLARATION = Declaration(
    "scale", ("x", "gaps"), ("out", "sums"), "#define A 1\n", "use(gaps_strides, gaps_ndim, x_shape);\n"
)

FLOATS, NUMBER = (mx.float32, True), (mx.int32, False)

TEXT = """
#include "mlx/backend/cuda/device/utils.cuh"

#include <cooperative_groups.h>

#define A 1
namespace mlx::core::cu {

namespace cg = cooperative_groups;

__global__ void custom_kernel_scale_bfloat16_t_-3_t_f(
    const __nv_bfloat16* x,
    const __grid_constant__ Shape x_shape,
    const float* gaps,
    const __grid_constant__ Strides gaps_strides,
    const __grid_constant__ int gaps_ndim,
    __half* out,
    float* sums) {
  using T = __nv_bfloat16;
  constexpr int N = -3;
  constexpr bool YES = true;
  constexpr bool NO = false;

use(gaps_strides, gaps_ndim, x_shape);

}

} // namespace mlx::core::cu
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_the_hash_is_that_of_the_standard_library(tmp_path: Path) -> None:
    source, program = tmp_path / "hashes.cpp", tmp_path / "hashes"
    source.write_text(HASHES)
    subprocess.run(["g++", "-std=c++17", str(source), "-o", str(program)], check=True)
    rng = random.Random(0)
    texts = [rng.randbytes(size) for size in [*range(40), *rng.sample(range(40, 5000), 60)]]
    given = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    found = subprocess.run([str(program)], input=given, capture_output=True, check=True).stdout
    assert [standard_hash(text) for text in texts] == [int(line) for line in found.split()]


def test_a_text_has_the_arguments_and_constants_that_mlx_writes() -> None:
    template = (("T", mx.bfloat16), ("N", -3), ("YES", True), ("NO", False))
    usage = LaunchTypes(template, ((mx.bfloat16, True), FLOATS), (mx.float16, mx.float32))
    found = kernel_text(DECLARATION, usage)
    assert found.text == TEXT
    assert found.expression == "mlx::core::cu::custom_kernel_scale_bfloat16_t_-3_t_f"
    assert found.module_name == f"custom_kernel_scale_bfloat16_t_-3_t_f_{standard_hash(TEXT.encode()):x}"


def test_numbers_without_dimensions_have_no_shapes_and_few_constants_no_lines() -> None:
    found = kernel_text(DECLARATION, LaunchTypes((), (NUMBER, NUMBER), (mx.float32, mx.float32)))
    head, _, body = found.text.partition("(\n")
    assert head.endswith("__global__ void custom_kernel_scale")
    arguments = ["const int32_t* x", "const int32_t* gaps", "float* out", "float* sums"]
    assert body.startswith(",\n".join(f"    {each}" for each in arguments) + ") {\nuse(")
