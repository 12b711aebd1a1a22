"""Gives MLX's CPU device a fast BLAS on Linux. Knows nothing of models, and must not import mlx.

The Linux wheel of MLX brings the reference BLAS, whose float32 matmul is about 30 times slower than
OpenBLAS's. The symbols of a library loaded with RTLD_GLOBAL win over the wheel's own, but only if the library
is loaded before MLX.
"""

import _ctypes
import ctypes
import os
import sys
from pathlib import Path

# The usual name first, then Fedora's threaded build and the link of the development package.
LIBRARIES = ("libopenblas.so.0", "libopenblasp.so.0", "libopenblas.so")

OLD_CORES = ("Prescott", "Core2", "Penryn", "Dunnington", "Nehalem", "Sandybridge")
"""OpenBLAS's names of Intel processors without AVX2; it takes one newer than itself for such a one."""

NEWER_CORES = (
    ("SkylakeX", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    ("Haswell", {"avx2", "fma"}),
)
"""OpenBLAS's names of newer ones, the fastest first, and the processor's flags that their kernels need."""

INSTALL_HINT = "`apt-get install libopenblas0` makes the CPU about 30 times faster"


def load_system_blas() -> str | None:
    """Load the system's OpenBLAS for MLX to use; return its file name.

    Returns None on macOS, which has Accelerate, where no OpenBLAS is found, and when mlx was imported already
    and has bound the reference BLAS.
    """
    if not sys.platform.startswith("linux") or "mlx.core" in sys.modules:
        return None
    _keep_numpy_to_one_thread()
    return next((name for name in LIBRARIES if _load(name)), None)


def _keep_numpy_to_one_thread() -> None:
    """Limit NumPy's own OpenBLAS, which the attention calls from several threads at a time.

    Two libraries whose threads spin while they wait for work made a busy machine four times slower: let the
    threads sleep.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")


def describe_blas(system_blas: str | None) -> str:
    """Return which BLAS the CPU device uses, for people to read.

    system_blas: as `load_system_blas` returned it.
    """
    if sys.platform == "darwin":
        return "Accelerate"
    if system_blas is not None:
        return "OpenBLAS (system)"
    return f"reference BLAS, slow: {INSTALL_HINT}"


def _load(name: str) -> bool:
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return False
    if not hasattr(library, "cblas_sgemm"):
        return False
    core = better_core(_core_name(library), cpu_flags())
    if core is None or "OPENBLAS_CORETYPE" in os.environ:
        library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    else:
        _ctypes.dlclose(library._handle)  # the library reads the variable when it is loaded
        os.environ["OPENBLAS_CORETYPE"] = core
        library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        del os.environ["OPENBLAS_CORETYPE"]  # NumPy's own OpenBLAS, loaded later, may know the processor
    if hasattr(library, "openblas_set_num_threads"):
        library.openblas_set_num_threads(os.cpu_count() or 1)  # for MLX; the environment says one, for NumPy
    return True


def better_core(core: str, flags: set[str]) -> str | None:
    """Return the core whose kernels OpenBLAS should use, None where its own choice is good.

    Debian 12's OpenBLAS (0.3.21) takes a Xeon of 2023 for a Prescott of 2004: a sixth of its speed.
    core: OpenBLAS's choice. flags: the processor's, as Linux names them.
    """
    if core not in OLD_CORES:
        return None
    return next((name for name, needed in NEWER_CORES if needed <= flags), None)


def _core_name(library: ctypes.CDLL) -> str:
    if not hasattr(library, "openblas_get_corename"):
        return ""
    library.openblas_get_corename.restype = ctypes.c_char_p
    name: bytes = library.openblas_get_corename()
    return name.decode()


def cpu_flags() -> set[str]:
    """Return the processor's flags; none where Linux does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())
