"""Finds MLX's compiler for CUDA, its headers and options, and runs it in processes of its own."""

import json
import logging
import mmap
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .kernel_text import KernelText

logger = logging.getLogger(__name__)

COMPILE_S = 120
"""Seconds that a kernel may take; the slowest took 10."""

EMBEDDED = {"utils.cuh": b"\nusing Strides = ", "complex.cuh": b"\nusing complex64_t = "}
"""Headers that are in MLX's library only, as texts that end with a zero byte, and what each alone holds."""

HEADER_FOLDER = "mlx/backend/cuda/device/"


class CompileFailed(Exception):
    """A kernel could not be compiled, or the compiler not be found."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """NVRTC's library, and what it is told with each text."""

    library: str
    options: tuple[str, ...]
    headers: dict[str, str]  # text by name

    def compile(self, kernel: KernelText) -> tuple[str, bytes]:
        """Return a kernel's mangled name and the GPU's code. Raises CompileFailed."""
        job = {
            "library": self.library,
            "options": self.options,
            "headers": self.headers,
            "text": kernel.text,
            "module_name": kernel.module_name,
            "expression": kernel.expression,
        }
        script = Path(__file__).with_name("nvrtc_process.py")
        try:
            done = subprocess.run(
                [sys.executable, "-I", str(script)],
                input=json.dumps(job).encode(),
                capture_output=True,
                timeout=COMPILE_S,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise CompileFailed(str(error)) from error
        mangled, _, code = done.stdout.partition(b"\n")
        if done.returncode or not mangled or not code:
            raise CompileFailed(done.stderr.decode(errors="replace")[:1000] or f"status {done.returncode}")
        return mangled.decode(), code


def find_compiler(architecture: str, package: Path, maps: Path = Path("/proc/self/maps")) -> Compiler:
    """Return the compiler that this process's MLX has loaded, with MLX's own options.

    architecture: the GPU's, as `sm_90a`. package: the folder of MLX's Python package. maps: Linux's list of
    the files that the process has in memory.
    Raises CompileFailed where a part of it is not found.
    """
    try:
        loaded = [Path(line.split(maxsplit=5)[5]) for line in maps.read_text().splitlines() if "/" in line]
        nvrtc = next(path for path in loaded if path.name.startswith("libnvrtc.so"))
        library = package / "lib" / "libmlx.so"
        headers = {HEADER_FOLDER + name: embedded(library, marker) for name, marker in EMBEDDED.items()}
        folders = include_folders(package, int(nvrtc.name.split(".")[2]))
    except (OSError, StopIteration, ValueError, IndexError) as error:
        raise CompileFailed(f"MLX's compiler is not found: {error!r}") from error
    options = ["--device-as-default-execution-space", f"--gpu-architecture={architecture}"]
    options += [f"--include-path={folder}" for folder in folders]
    return Compiler(str(nvrtc), tuple(options), headers)


def embedded(library: Path, marker: bytes) -> str:
    """Return the text in a library that holds `marker`. Raises ValueError where there is none, or several."""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(marker)
        if at < 0 or content.find(marker, at + 1) >= 0:
            raise ValueError(f"{library.name} does not hold {marker!r} once")
        return content[content.rfind(b"\0", 0, at) + 1 : content.find(b"\0", at)].decode()


def include_folders(package: Path, nvrtc_major: int) -> list[Path]:
    """Return the folders of headers in MLX's order. package: as in `find_compiler`. Raises ValueError."""
    cuda = package.parent / "nvidia" / (f"cu{nvrtc_major}" if nvrtc_major > 12 else "cuda_runtime")
    if not (cuda / "include").exists():
        home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
        cuda = Path(home or "/usr/local/cuda")
    folders = [package / "include", package / "include" / "cccl", cuda / "include"]
    if missing := [folder for folder in folders if not folder.exists()]:
        raise ValueError(f"no headers in {missing[0]}")
    return folders
