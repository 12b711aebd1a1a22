"""Folders in the user's cache, for what MLX compiles, keeps and loads, and for KV."""

import logging
import os
import platform
import tempfile
from pathlib import Path

from ...cache.disk.private_folder import is_private, make_private
from ..blas import cpu_flags

logger = logging.getLogger(__name__)

COMPILED_FOR = {"avx2", "fma", "f16c"}
"""MLX's CPU device compiles for these, where the processor has them all."""


def use_private_temporary_folder() -> None:
    """Let this process have a folder for temporary files to which no other user can write.

    MLX's CPU device keeps libraries there and loads what it finds: code that another user puts into the
    shared /tmp first would run in this process. A user's own TMPDIR, as macOS gives to each, stays. Machines
    that share a home have a folder for each kind of processor.
    """
    if is_private(Path(tempfile.gettempdir())):
        return
    has_all = cpu_flags() >= COMPILED_FOR
    folder = make_user_folder("temporary", platform.machine() + "-avx2" * has_all)
    os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="pensieve-") if folder is None else str(folder)


def make_user_folder(*parts: str, is_lasting: bool = False) -> Path | None:
    """Return a private folder in the user's cache, made if there is none.

    It is in the folder for temporary files if the user has no home that can be written to. Returns None, and
    logs why, where neither can be made. parts: the folder's name and its parents' below the user's folder.
    is_lasting: it must outlive a restart of the machine; temporary files may lie in memory.
    """
    for find_place in (_user_cache,) if is_lasting else (_user_cache, _temporary_place):
        try:
            folder = find_place()
            for part in parts:
                folder = make_private(folder / part)
        except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
            logger.warning("a folder for %s cannot be made: %s", parts[0], error)
        else:
            return folder
    return None


def _user_cache() -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    caches.mkdir(parents=True, exist_ok=True)
    return make_private(caches / "pensieve")


def _temporary_place() -> Path:
    return make_private(Path(tempfile.gettempdir()) / f"pensieve-{os.getuid()}")
