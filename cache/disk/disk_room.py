"""How much lies in the folder, and how room is made in it, before a file is written.

All that lies there counts. What goes first are other models' files, the longest unused ones first, then
those of this model that are of least worth. What cannot be removed goes on counting, and is tried again.
"""

import errno
from collections import abc
from contextlib import suppress
from dataclasses import dataclass

from .disk_stats import DiskStats
from .folder import DiskFolder, FoundFile, disk_bytes
from .segment_file import temporary_path
from .stored_files import StoredFile, StoredFiles

KEEP_FREE_BYTES = 2_000_000_000
"""What the disk keeps free for others."""


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """How much of the disk may be used."""

    limit_bytes: int  # of all that lies in the folder
    hourly_bytes: int  # written in an hour
    keep_free_bytes: int = KEEP_FREE_BYTES  # of the disk


class DiskRoom:
    """The bytes of the folder: files of this model, of others, and what is being written."""

    def __init__(self, folder: DiskFolder, limits: DiskLimits) -> None:
        self.files = StoredFiles()
        self._folder = folder
        self._limits = limits
        self.stats = DiskStats(limits.limit_bytes)
        self._others: list[FoundFile] = []  # other models' files, the one that goes first at the end
        self._leftovers: dict[str, int] = {}  # files that could not be removed -> their bytes

    def begin(self, fixed_bytes: int, others: abc.Iterable[FoundFile]) -> None:
        """Count what lies in the folder at the start, without this model's files.

        fixed_bytes: of what may not be removed. others: files that may.
        """
        self._others = sorted(others, key=lambda one: one.changed_at, reverse=True)
        self.stats.used_bytes += fixed_bytes + sum(one.disk_bytes for one in self._others)

    def add(self, file: StoredFile) -> None:
        """Count a file, which is there or for which room was made."""
        self.files.add(file)
        self.stats.used_bytes += file.disk_bytes

    def make(self, num_bytes: int) -> bool:
        """Remove files until a file of `num_bytes` bytes of the disk fits; return whether it does."""
        self._retry_leftovers()
        if num_bytes > self._limits.limit_bytes:
            return False
        try:
            free = self._folder.files.free_bytes(self._folder.path)
        except OSError:
            return False
        wanted = self._limits.keep_free_bytes + num_bytes - free
        removed = 0
        while self.stats.used_bytes + num_bytes > self._limits.limit_bytes or removed < wanted:
            freed = self._remove_least()
            if not freed:
                return False
            removed += freed
        return True

    def drop(self, file: StoredFile) -> int:
        """Forget a file, remove whatever there is of it, and return the bytes that became free."""
        if self.files.get(file.path) is file:
            self.files.remove(file)
        self.stats.used_bytes -= file.disk_bytes
        return file.disk_bytes - self.discard(file.path) - self.discard(temporary_path(file.path))

    def discard(self, path: str) -> int:
        """Remove a file that does not count. Return its bytes where it stays, and counts, else 0."""
        try:
            self._folder.files.remove(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return 0
            with suppress(OSError):
                num_bytes = disk_bytes(self._folder.files.status(path).st_size)
                self.stats.used_bytes += num_bytes - self._leftovers.get(path, 0)
                self._leftovers[path] = num_bytes
                return num_bytes
        return 0

    def _remove_least(self) -> int:
        """Remove the file that goes first; return the bytes that became free, 0 where none may go."""
        if self._others:
            other = self._others.pop()
            self.stats.used_bytes -= other.disk_bytes
            self.stats.num_evicted += 1
            return other.disk_bytes - self.discard(other.path)
        file = self.files.pop_least()
        if file is None:
            return 0
        self.stats.num_evicted += 1
        return self.drop(file)

    def _retry_leftovers(self) -> None:
        leftovers, self._leftovers = self._leftovers, {}
        for path, num_bytes in leftovers.items():
            self.stats.used_bytes -= num_bytes
            self.discard(path)
