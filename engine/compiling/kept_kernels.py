"""Kernels of MLX's on CUDA whose compiled code is kept as files; see `kernel_text`."""

import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

from .kernel_text import Declaration, KernelText, LaunchTypes, kernel_text
from .module_folder import module_path, private_folder, use_private_folder, write_module
from .nvrtc import CompileFailed, Compiler, find_compiler

logger = logging.getLogger(__name__)

Launch = Callable[..., list[mx.array]]


class KernelStore:
    """The files of compiled kernels in one folder, and the compiler that makes them."""

    def __init__(self, folder: Path, compiler: Compiler) -> None:
        self._folder, self._compiler = folder, compiler

    def fill(self, kernels: Iterable[KernelText]) -> int:
        """Compile the kernels that have no files, as many at a time as there are cores; return their number.

        A kernel that fails is logged: MLX then compiles it by itself, or says why it cannot.
        """
        missing = {kernel.module_name: kernel for kernel in kernels if not self._has(kernel)}
        if missing:
            with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
                list(pool.map(self._compile, missing.values()))
        return len(missing)

    def _has(self, kernel: KernelText) -> bool:
        return module_path(self._folder, kernel.module_name).exists()

    def _compile(self, kernel: KernelText) -> None:
        try:
            write_module(self._folder, kernel, *self._compiler.compile(kernel))
        except (CompileFailed, OSError) as error:
            logger.info("MLX compiles %s by itself: %s", kernel.function, error)


class KeptKernel:
    """A kernel as MLX declares it. The code that a launch needs is compiled before MLX looks for it."""

    def __init__(self, declaration: Declaration, launch: Launch, store: KernelStore) -> None:
        """launch: MLX's own, which queues the kernel."""
        self._declaration, self._launch, self._store = declaration, launch, store
        self._known: set[LaunchTypes] = set()

    def __call__(self, **arguments: Any) -> list[mx.array]:
        """Queue the kernel. arguments: as MLX's kernels take them."""
        usage = usage_of(arguments)
        if usage not in self._known:
            self._known.add(usage)
            try:
                self._store.fill([kernel_text(self._declaration, usage)])
            except Exception as error:
                logger.info("the code of %s is not kept: %r", self._declaration.name, error)
        return self._launch(**arguments)


def usage_of(arguments: dict[str, Any]) -> LaunchTypes:
    """Return what a kernel's text depends on in a launch. arguments: as MLX's kernels take them."""
    inputs = tuple((array.dtype, array.ndim > 0) for array in arguments["inputs"])
    return LaunchTypes(tuple(arguments.get("template") or ()), inputs, tuple(arguments["output_dtypes"]))


class LaunchRecorder:
    """Notes which code kernels would need. Its kernels compute nothing; they return zeros, lazy."""

    def __init__(self) -> None:
        self.kernels: dict[tuple[str, LaunchTypes], KernelText] = {}

    def declare(self, declaration: Declaration) -> Launch:
        """Return what stands for a kernel."""

        def launch(**arguments: Any) -> list[mx.array]:
            usage = usage_of(arguments)
            key = declaration.name, usage
            if key not in self.kernels:
                self.kernels[key] = kernel_text(declaration, usage)
            outputs = zip(arguments["output_shapes"], usage.output_dtypes, strict=True)
            return [mx.zeros(shape, dtype) for shape, dtype in outputs]

        return launch


def keep_compiled_code() -> None:
    """Let MLX keep what it compiles for CUDA in a private folder; nothing on other devices.

    Called in the engine's process before anything is evaluated.
    """
    if architecture := cuda_architecture():
        use_private_folder(version("mlx"), architecture)


def cuda_architecture() -> str | None:
    """Return the architecture that MLX compiles for, None where the device is no CUDA GPU."""
    if mx.default_device() != mx.Device(mx.gpu) or mx.metal.is_available():
        return None
    facts = mx.device_info()
    major, minor = int(facts["compute_capability_major"]), int(facts["compute_capability_minor"])
    return f"sm_{major}{minor}{'a' if major >= 9 else ''}"


@cache
def open_store() -> KernelStore | None:
    """Return the store of this process, None where MLX keeps nothing in a private folder."""
    folder, architecture = private_folder(), cuda_architecture()
    if folder is None or architecture is None:
        return None
    try:
        return KernelStore(folder, find_compiler(architecture, Path(mx.__file__).parent))
    except CompileFailed as error:
        logger.info("MLX compiles kernels by itself: %s", error)
        return None
