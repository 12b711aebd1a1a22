"""How much lies in the folder, and how room is made in it, before a file is written.

All that lies there counts, also what is being removed, until it is gone. What goes first are other models'
files, the longest unused ones first, then those of this model that are of least worth. What cannot be removed
goes on counting, and is tried again.

The disk keeps some of its bytes free for others. Where a file would take of these, older files of the tier
make room for it. Where others have taken of them already, nothing is removed, as that would not help for
long, and nothing is written until there is more.
"""

import math
from collections import abc
from dataclasses import dataclass
from typing import Literal

from .disk_stats import DiskStats
from .folder import FoundFile
from .folder_chores import FolderChores
from .segment_file import temporary_path
from .stored_files import StoredFile, StoredFiles
from .write_rules import Clock

KEEP_FREE_BYTES = 2_000_000_000
"""What the disk keeps free for others."""

AGE_S = 1.0
"""Seconds for which it is believed how much of the disk is free, and after which removals are tried again."""

UNKNOWN = -(2**62)
"""Bytes that are taken to be free where the disk does not say."""

Room = Literal["made", "awaited", "none"]
"""awaited: files are being removed for it, or it is being found out how much is free; ask again soon."""


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """How much of the disk may be used."""

    limit_bytes: int  # of all that lies in the folder
    hourly_bytes: int  # written in an hour
    keep_free_bytes: int = KEEP_FREE_BYTES  # of the disk


class DiskRoom:
    """The bytes of the folder: files of this model, of others, and what is being written or removed."""

    def __init__(self, chores: FolderChores, limits: DiskLimits, clock: Clock) -> None:
        self.files = StoredFiles()
        self.stats = DiskStats(limits.limit_bytes)
        self._chores, self._limits, self._clock = chores, limits, clock
        self._others: list[FoundFile] = []  # other models' files, the one that goes first at the end
        # Files that are being removed, perhaps more than once -> the bytes that each removal will free.
        self._leaving: dict[str, list[int]] = {}
        self._leaving_bytes = 0
        self._leftovers: dict[str, int] = {}  # files that could not be removed -> their bytes
        self._retried_at = clock()
        self._free = _FreeBytes(clock)

    @property
    def is_stuck(self) -> bool:
        """Whether the disk does not answer at all."""
        return self._chores.is_late

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
        self._free.taken += file.disk_bytes

    def make(self, path: str, num_bytes: int) -> Room:
        """Remove files until one fits that has the name `path` and takes `num_bytes` bytes of the disk."""
        self._retry_leftovers()
        self.settle()
        if num_bytes > self._limits.limit_bytes or path in self._leftovers or self.is_stuck:
            return "none"
        if self._free.is_old:
            if self._free.ask():
                self._chores.measure()
            self.settle()
        if self._free.is_old or path in self._leaving:
            return "awaited"
        if self._free.num_bytes < self._limits.keep_free_bytes:
            return "none"

        def wanted() -> int:
            short = self._limits.keep_free_bytes + num_bytes - self._free.num_bytes
            return max(short, self._over_limit(num_bytes))

        if not self._remove_while(wanted):
            return "none"
        return "awaited" if wanted() > 0 else "made"

    def shrink(self) -> None:
        """Remove files until the limit holds."""
        self._remove_while(lambda: self._over_limit(0))

    def settle(self) -> None:
        """Take the outcomes of what was asked of the disk."""
        for removal in self._chores.removals():
            counted = self._leaving[removal.path].pop(0)
            self._leaving_bytes -= counted
            if not self._leaving[removal.path]:
                del self._leaving[removal.path]
            counted += self._leftovers.pop(removal.path, 0)
            self.stats.used_bytes += removal.left_bytes - counted
            self._free.taken += removal.left_bytes - counted
            if removal.left_bytes:
                self._leftovers[removal.path] = removal.left_bytes
        for num_bytes in self._chores.measured():
            self._free.answer(num_bytes)

    def drop(self, file: StoredFile) -> None:
        """Forget a file, and remove whatever there is of it."""
        if self.files.get(file.path) is file:
            self.files.remove(file)
        self._remove(file.path, file.disk_bytes)

    def discard(self, path: str, num_bytes: int = 0) -> None:
        """Remove a file that does not count; from now on its `num_bytes` bytes do, until it is gone."""
        self.stats.used_bytes += num_bytes
        self._free.taken += num_bytes
        self._remove(path, num_bytes)

    def _over_limit(self, num_bytes: int) -> int:
        return self.stats.used_bytes + num_bytes - self._limits.limit_bytes

    def _remove_while(self, wanted: abc.Callable[[], int]) -> bool:
        """Remove files until the bytes that are `wanted` will be there; return False where they will not."""
        num_leftovers = len(self._leftovers)
        while wanted() > self._leaving_bytes:
            if len(self._leftovers) > num_leftovers or not self._remove_least():
                return False
            self.settle()
        return True

    def _remove(self, path: str, num_bytes: int) -> None:
        """Remove a file whose `num_bytes` bytes count, and what is left of its writing."""
        self._leaving.setdefault(path, []).append(num_bytes)
        self._leaving_bytes += num_bytes
        self._chores.remove(path, temporary_path(path))

    def _remove_least(self) -> bool:
        """Remove the file that goes first; return whether there was one."""
        if self._others:
            other = self._others.pop()
            self._remove(other.path, other.disk_bytes)
        elif file := self.files.pop_least():
            self._remove(file.path, file.disk_bytes)
        else:
            return False
        self.stats.num_evicted += 1
        return True

    def _retry_leftovers(self) -> None:
        now = self._clock()
        if self._leftovers and now >= self._retried_at + AGE_S:
            leftovers, self._leftovers, self._retried_at = self._leftovers, {}, now
            for path, num_bytes in leftovers.items():
                self._remove(path, num_bytes)


class _FreeBytes:
    """How much of the disk is free: the newest answer, less what was taken since it was asked for.

    taken: bytes that the tier has taken of the disk, less those that it has given back.
    """

    def __init__(self, clock: Clock) -> None:
        self.taken = 0
        self._clock = clock
        self._answer = 0
        self._answered_at = -math.inf
        self._taken_then = 0
        self._taken_when_asked: int | None = None  # None while no answer is to come

    @property
    def is_old(self) -> bool:
        """Whether the newest answer is not to be believed any more."""
        return self._clock() > self._answered_at + AGE_S

    @property
    def num_bytes(self) -> int:
        """Bytes that are free, as far as is known; fewer than none where the disk does not say."""
        return self._answer - (self.taken - self._taken_then)

    def ask(self) -> bool:
        """Whether the question must be asked now: no answer to it is to come."""
        if self._taken_when_asked is not None:
            return False
        self._taken_when_asked = self.taken
        return True

    def answer(self, num_bytes: int | None) -> None:
        """Take an answer; None where the disk has given none."""
        self._answer = UNKNOWN if num_bytes is None else num_bytes
        self._answered_at = self._clock()
        self._taken_then, self._taken_when_asked = self._taken_when_asked or 0, None
