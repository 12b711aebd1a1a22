"""The folder of the disk tier: one server's at a time, the user's alone, and what lies in it.

    FOLDER/lock                                    held as long as the server lives
    FOLDER/hashes.json                             the models' hashes (`fingerprint.py`)
    FOLDER/<fingerprint>/<digest>.kv or .state     files of one model's KV
    FOLDER/<fingerprint>/.new-...                  such files, while they are written

Only files with such names are ever removed. Whatever else lies in the folder is counted and left alone.
"""

import fcntl
import os
import re
import stat
from collections import abc
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ... import PensieveError
from .file_layer import FileLayer
from .folder_thread import FolderThread, Run
from .orders import FileKind
from .private_folder import is_private
from .segment_file import TEMPORARY

FILE_NAME = re.compile(r"[0-9a-f]{64}\.(kv|state)")
TEMPORARY_NAME = re.compile(re.escape(TEMPORARY) + FILE_NAME.pattern)
FOLDER_NAME = re.compile(r"[0-9a-f]{64}")

BLOCK_BYTES = 4096
"""What a disk gives to a file is a multiple of this."""

NAME_BYTES = 256
"""More than a file's name and inode take."""


class FolderError(PensieveError):
    """The folder cannot be used, and the server runs without a disk tier."""


class FoundFile(NamedTuple):
    """A file below the folder."""

    path: str
    disk_bytes: int
    changed_at: float
    is_ours: bool  # by its name: the tier may remove it


class DiskFolder:
    """A folder that this process has locked. A context manager."""

    def __init__(self, path: Path, lock: int, files: FileLayer, run: Run) -> None:
        """run: runs what may wait for the disk once the folder is open."""
        self.path = path
        self.files = files
        self.run = run
        self._lock = lock

    @property
    def memo(self) -> Path:
        """The file that remembers the models' hashes."""
        return self.path / "hashes.json"

    def model_folder(self, fingerprint: bytes) -> Path:
        """Return the folder for one model's KV, made if there is none. Raises OSError."""
        folder = self.path / fingerprint.hex()
        folder.mkdir(mode=0o700, exist_ok=True)
        if not is_private(folder):
            raise PermissionError(f"{folder} is not this user's alone")
        return folder

    def scan(self) -> abc.Iterator[FoundFile]:
        """Yield all that lies below the folder and can be seen, folders as well."""
        top = os.fspath(self.path)
        for folder, folder_names, names in os.walk(top):
            is_models = os.path.dirname(folder) == top and bool(
                FOLDER_NAME.fullmatch(os.path.basename(folder))
            )
            for name in folder_names + names:
                path = os.path.join(folder, name)
                with suppress(OSError):  # it has just gone
                    status = os.lstat(path)
                    is_ours = is_models and is_our_name(name) and not stat.S_ISDIR(status.st_mode)
                    yield FoundFile(path, disk_bytes(status.st_size), status.st_mtime, is_ours)

    def close(self) -> None:
        """Let another server use the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> "DiskFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_folder(path: Path, files: FileLayer | None = None, run: Run | None = None) -> DiskFolder:
    """Lock a folder, made if there is none, and return it.

    run: runs what may wait for the disk; a thread of its own by default.
    Raises FolderError where another server has it, or where it is not this user's alone.
    """
    lock = -1
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_private(path):
            raise FolderError(f"{path} must be a folder of this user's, to which nobody else can write")
        if not (path / "lock").exists() and any(not one.name.startswith(".") for one in path.iterdir()):
            raise FolderError(f"{path} has other files: KV needs a folder of its own")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(path / "lock", flags, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise FolderError(f"{path} is used by another server") from None
    except OSError as error:
        if lock >= 0:
            os.close(lock)
        raise FolderError(f"{path} cannot be used: {error.strerror or error}") from error
    return DiskFolder(path, lock, files or FileLayer(), run or FolderThread())


def is_our_name(name: str) -> bool:
    """Whether the tier has given a file this name."""
    return bool(FILE_NAME.fullmatch(name) or TEMPORARY_NAME.fullmatch(name))


def is_temporary(path: str) -> bool:
    """Whether a file of ours was never finished."""
    return os.path.basename(path).startswith(TEMPORARY)


def file_path(folder: Path, digest: bytes, kind: FileKind) -> str:
    """Return the path of the file whose last block's digest is `digest`."""
    return os.fspath(folder / f"{digest.hex()}.{kind}")


def disk_bytes(num_bytes: int) -> int:
    """Return what a file of `num_bytes` bytes takes of a disk, with its name in the folder."""
    return -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES + NAME_BYTES
