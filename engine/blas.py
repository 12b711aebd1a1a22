"""Gives MLX's CPU device a fast BLAS on Linux. Knows nothing of models, and must not import mlx.

The Linux wheel of MLX brings the reference BLAS, whose float32 matmul is about 30 times slower than
OpenBLAS's. The symbols of a library loaded with RTLD_GLOBAL win over the wheel's own, but only if the library
is loaded before MLX.
"""

import ctypes
import os
import sys

# The usual name first, then Fedora's threaded build and the link of the development package.
LIBRARIES = ("libopenblas.so.0", "libopenblasp.so.0", "libopenblas.so")

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
        library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    if not hasattr(library, "cblas_sgemm"):
        return False
    if hasattr(library, "openblas_set_num_threads"):
        library.openblas_set_num_threads(os.cpu_count() or 1)  # for MLX; the environment says one, for NumPy
    return True
