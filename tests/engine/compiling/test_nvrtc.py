"""The compiler's process, with a library in NVRTC's place that takes the text for the code."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pensieve.engine.compiling.kernel_text import KernelText
from pensieve.engine.compiling.nvrtc import EMBEDDED, CompileFailed, Compiler, embedded, find_compiler

LIBRARY = """
#include <string>
struct Program { std::string text, name, log; };
extern "C" {
const char* nvrtcGetErrorString(int) { return "an error"; }
using Text = const char*;
int nvrtcCreateProgram(void** out, Text text, Text file, int n, Text* texts, Text* names) {
  Program* made = new Program{text, file, ""};
  for (int i = 0; i < n; ++i) made->text += std::string("|") + names[i] + "=" + texts[i];
  *out = made;
  return 0;
}
int nvrtcAddNameExpression(void* p, Text name) {
  ((Program*)p)->text += std::string("|") + name;
  return 0;
}
int nvrtcCompileProgram(void* p, int n, const char** options) {
  Program* made = (Program*)p;
  for (int i = 0; i < n; ++i) made->text += std::string("|") + options[i];
  if (made->text.find("wrong") == std::string::npos) return 0;
  made->log = "line 1: wrong";
  return 6;
}
int nvrtcGetLoweredName(void* p, Text, Text* out) {
  *out = ((Program*)p)->name.c_str();
  return 0;
}
int nvrtcGetCUBINSize(void* p, size_t* size) { *size = ((Program*)p)->text.size(); return 0; }
int nvrtcGetCUBIN(void* p, char* out) { ((Program*)p)->text.copy(out, -1); return 0; }
int nvrtcGetProgramLogSize(void* p, size_t* size) { *size = ((Program*)p)->log.size() + 1; return 0; }
int nvrtcGetProgramLog(void* p, char* out) { ((Program*)p)->log.copy(out, -1); return 0; }
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    source = tmp_path_factory.mktemp("nvrtc") / "nvrtc.cpp"
    source.write_text(LIBRARY)
    made = source.with_name("libnvrtc.so.13")
    subprocess.run(["g++", "-shared", "-fPIC", str(source), "-o", str(made)], check=True)
    return made


def test_the_compiler_gets_the_text_the_headers_and_the_options(library: Path) -> None:
    kernel = KernelText("f", "code")
    mangled, code = Compiler(str(library), ("--one", "--two"), {"h.cuh": "header"}).compile(kernel)
    assert mangled == f"{kernel.module_name}.cu"
    assert code == b"code|h.cuh=header|mlx::core::cu::f|--one|--two"


def test_a_failure_tells_the_compilers_log(library: Path) -> None:
    with pytest.raises(CompileFailed, match="line 1: wrong"):
        Compiler(str(library), (), {}).compile(KernelText("f", "wrong"))
    with pytest.raises(CompileFailed, match="absent"):
        Compiler("/absent/libnvrtc.so", (), {}).compile(KernelText("f", "code"))


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """MLX's package and NVIDIA's beside it; the folder that both are in."""
    for folder in ("mlx/lib", "mlx/include/cccl", "nvidia/cu13/include"):
        (tmp_path / folder).mkdir(parents=True)
    texts = (b"// header" + marker + b"one;\n" for marker in EMBEDDED.values())
    (tmp_path / "mlx" / "lib" / "libmlx.so").write_bytes(b"\x7fELF\0" + b"\0\0".join(texts) + b"\0code")
    return tmp_path


@pytest.fixture
def list_maps(packages: Path) -> Callable[..., Path]:
    def write(*paths: str) -> Path:
        lines = [f"7f0000000000-7f0000001000 r-xp 00000000 08:01 42    {path}\n" for path in paths]
        (packages / "maps").write_text("".join([*lines, "7f00-7f01 rw-p 00000000 00:00 0 \n", *lines]))
        return packages / "maps"

    return write


def test_libraries_and_headers_are_those_that_mlx_has_loaded(
    packages: Path, list_maps: Callable[..., Path]
) -> None:
    mlx, nvrtc = packages / "mlx", packages / "nvidia" / "cu13" / "lib" / "libnvrtc.so.13"
    found = find_compiler("sm_90a", mlx, list_maps("/x/libother.so", f"{nvrtc}"))
    assert found.library == str(nvrtc)
    folders = (mlx / "include", mlx / "include" / "cccl", packages / "nvidia" / "cu13" / "include")
    assert found.options == (
        "--device-as-default-execution-space",
        "--gpu-architecture=sm_90a",
        *(f"--include-path={folder}" for folder in folders),
    )
    assert found.headers["mlx/backend/cuda/device/utils.cuh"] == "// header\nusing Strides = one;\n"


def test_whatever_is_missing_is_one_kind_of_error(
    packages: Path, list_maps: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(packages / "absent"))
    mlx, right = packages / "mlx", "/x/libnvrtc.so.13"
    for name in ("/x/libother.so", "/x/libnvrtc.so", "/x/libnvrtc.so.99"):
        with pytest.raises(CompileFailed):
            find_compiler("sm_90a", mlx, list_maps(name))
    for package, maps in [(mlx, packages / "no such file"), (packages, list_maps(right))]:
        with pytest.raises(CompileFailed):
            find_compiler("sm_90a", package, maps)
    assert find_compiler("sm_90a", mlx, list_maps(right)).library == right


def test_a_header_must_be_there_once(packages: Path) -> None:
    library = packages / "mlx" / "lib" / "libmlx.so"
    for marker in (b"absent", b"header"):
        with pytest.raises(ValueError, match="once"):
            embedded(library, marker)
