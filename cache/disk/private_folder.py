"""Folders that are one user's alone: what lies there was put there by this user."""

import os
import stat
from pathlib import Path


def is_private(folder: Path) -> bool:
    """Whether a folder is this user's, and no other user can write to it. Raises OSError."""
    found = folder.lstat()
    writable = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not writable


def make_private(folder: Path) -> Path:
    """Return `folder`, made if there is none. Raises OSError, also where other users can write to it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if not is_private(folder):
        raise PermissionError(f"{folder} is not this user's alone")
    return folder
