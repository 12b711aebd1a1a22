"""Calls on the folder that nobody waits for: a thread of their own makes them, one after another.

A disk may take as long as it likes for any of them, and a network mount that hangs, for ever. The event loop,
on which the index lives, only asks for them, and takes their outcomes when it looks again.
"""

import errno
import logging
from collections import abc, deque
from functools import partial
from typing import NamedTuple

from .folder import DiskFolder, disk_bytes
from .folder_thread import Job
from .write_rules import Clock

logger = logging.getLogger(__name__)

LATE_S = 10.0
"""Seconds after which a call that has not returned is taken for one that never will."""


class Removal(NamedTuple):
    """What became of a file, by its path, that was to be removed: the bytes that stay, if any."""

    path: str
    left_bytes: int


class FolderChores:
    """Files to remove, files to mark as used, and the question how much of the disk is free."""

    def __init__(self, folder: DiskFolder, clock: Clock) -> None:
        self._folder, self._clock = folder, clock
        self._removals: deque[Removal] = deque()
        self._begun_at: float | None = None  # the call under way
        self._was_late = False
        self._free: deque[int | None] = deque()

    @property
    def is_late(self) -> bool:
        """Whether the disk does not answer: a call is under way that has taken too long by far."""
        begun_at = self._begun_at
        is_late = begun_at is not None and self._clock() - begun_at > LATE_S
        if is_late and not self._was_late:
            logger.warning("the disk of %s does not answer; no KV is kept there meanwhile", self._folder.path)
        self._was_late = is_late
        return is_late

    def remove(self, path: str, *others: str) -> None:
        """Remove some files, of which the first one names what removals() returns of them all."""
        self._folder.run(partial(self._timed, partial(self._remove, (path, *others))))

    def mark_used(self, path: str) -> None:
        """Set a file's times to now. Nobody minds if that fails."""
        if not self.is_late:
            self._folder.run(partial(self._timed, partial(self._folder.files.mark_used, path)))

    def measure(self) -> None:
        """Find out how many bytes of the disk are free: measured() will say it."""
        self._folder.run(partial(self._timed, self._measure))

    def removals(self) -> abc.Iterator[Removal]:
        """Yield what became of files since the last call."""
        while self._removals:
            yield self._removals.popleft()

    def measured(self) -> abc.Iterator[int | None]:
        """Yield the answers to measure() since the last call; None where the disk gives none."""
        while self._free:
            yield self._free.popleft()

    def _timed(self, job: Job) -> None:
        self._begun_at = self._clock()
        try:
            job()
        except OSError as error:
            logger.debug("a call on the disk has failed: %s", error)
        finally:
            self._begun_at = None

    def _remove(self, paths: tuple[str, ...]) -> None:
        self._removals.append(Removal(paths[0], sum(map(self._left_of, paths))))

    def _left_of(self, path: str) -> int:
        """Remove a file; return the bytes of it that stay."""
        files = self._folder.files
        try:
            files.remove(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return 0
            try:
                return disk_bytes(files.status(path).st_size)
            except OSError:
                return 0  # it is not there, or nobody can tell
        return 0

    def _measure(self) -> None:
        num_bytes = None
        try:
            num_bytes = self._folder.files.free_bytes(self._folder.path)
        finally:
            self._free.append(num_bytes)
