"""The folder where MLX keeps what it has compiled for CUDA, a private one of the user's.

MLX's own choice is a folder in the shared /tmp: code that another user puts there first would run on the
GPU in this process, beside prompts and KV. Each version of MLX and each kind of GPU has a folder, since MLX's
files are named after neither. Nothing here is essential: without a folder MLX compiles at each start.
"""

import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

from ...cache.disk.private_folder import is_private
from .kernel_text import KernelText
from .user_folder import make_user_folder

logger = logging.getLogger(__name__)

VARIABLE = "MLX_PTX_CACHE_DIR"
"""MLX reads it when it compiles for the first time in a process."""

MAX_BYTES = 1_000_000_000
"""Size of a folder above which the oldest files go. A model's kernels have some 10 MB."""

UNUSED_DAYS = 30
"""Days after which the folder of another version or GPU goes."""

MAX_NAME = 245
"""Letters of a file's name, without its suffix, above which MLX makes folders of the name's parts."""


def use_private_folder(version: str, architecture: str) -> None:
    """Let MLX keep its files in a private folder, unless the user has chosen one; for this process.

    The folder is in the user's cache, or in that for temporary files if the user has no home that can be
    written to. Where neither can be made MLX keeps nothing.
    version: MLX's. architecture: the GPU's.
    """
    if VARIABLE in os.environ:
        return
    os.environ[VARIABLE] = ""
    if folder := make_user_folder("kernels", f"mlx-{version}-{architecture}"):
        try:
            os.utime(folder)
            tidy(folder)
        except OSError as error:
            logger.warning("compiled kernels cannot be kept: %s", error)
        else:
            os.environ[VARIABLE] = str(folder)


def private_folder() -> Path | None:
    """Return the folder that MLX reads in this process, None where it is not this user's alone."""
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    folder = Path(path)
    try:
        return folder if is_private(folder) else None
    except OSError:
        return None


def module_path(folder: Path, module_name: str) -> Path:
    """Return the file of a module's code, as MLX finds it."""
    while len(module_name) > MAX_NAME:
        folder, module_name = folder / module_name[:MAX_NAME], module_name[MAX_NAME:]
    return folder / f"{module_name}.ptx"


def write_module(folder: Path, kernel: KernelText, mangled: str, code: bytes) -> None:
    """Write a module's files, each at once; that which MLX looks for comes last. Raises OSError."""
    path = module_path(folder, kernel.module_name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = f"{kernel.expression}\t{mangled}\n".encode()
    for target, content in ((path.with_name(f"{path.stem}.txt"), names), (path, code)):
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def tidy(folder: Path) -> None:
    """Remove folders of others that are long unused, unfinished files, and the oldest of too many.

    MLX writes its code, then its names: code without names is what a process left that was killed.
    """
    now = time.time()
    for other in folder.parent.iterdir():
        if other != folder and now - other.stat().st_mtime > UNUSED_DAYS * 86_400:
            shutil.rmtree(other, ignore_errors=True)
    for file in folder.rglob(".new-*"):
        if now - file.stat().st_mtime > 3600:
            file.unlink(missing_ok=True)
    modules = sorted(folder.rglob("*.ptx"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in modules:
        parts = [path, path.with_suffix(".txt"), path.with_suffix(".cu")]
        sizes = [part.stat().st_size if part.exists() else 0 for part in parts]
        total += sum(sizes)
        is_unfinished = not (sizes[0] and sizes[1]) and now - path.stat().st_mtime > 60
        if total > MAX_BYTES or is_unfinished:
            for part in parts:
                part.unlink(missing_ok=True)
