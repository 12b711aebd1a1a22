"""The thread that reads and writes files, in the engine's process. It touches no array of MLX."""

import errno
import itertools
import logging
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from ...cache.disk.file_layer import Buffer
from ...cache.disk.orders import ReadOrder, ReadOutcome, WriteOrder, WriteOutcome
from ...cache.disk.segment_file import try_read, try_write

logger = logging.getLogger(__name__)

T = TypeVar("T")

Loaded = tuple[ReadOutcome, memoryview | None]
"""A read file's outcome, and its payload where there is one."""

Write = Callable[[WriteOrder, list[Buffer]], WriteOutcome]
Read = Callable[[ReadOrder], Loaded]

READ_FIRST, WRITE_LATER = 0, 1

STOPPED_S = 5.0
"""Most seconds that `forget` waits for a file under way."""


class DiskThread:
    """Reads and writes files one after another; reads come first.

    The thread starts with the first file, and ends with the process.
    """

    def __init__(self, write: Write = try_write, read: Read = try_read) -> None:
        """write, read: do the work. Tests pass others."""
        self._write, self._read = write, read
        self._jobs: queue.PriorityQueue[tuple[int, int, Callable[[], None]]] = queue.PriorityQueue()
        self._numbers = itertools.count()  # a tie-break: jobs cannot be compared
        self._changed = threading.Condition()
        self._written: list[WriteOutcome] = []
        self._loaded: list[Loaded] = []
        self._is_busy = False
        self._turn = 0  # counted up when all is forgotten
        self._thread: threading.Thread | None = None

    def write(self, order: WriteOrder, chunks: list[Buffer]) -> None:
        """Write a file soon; its outcome will be among those that `take` returns."""
        failed = WriteOutcome(order, errno.EIO)
        self._put(WRITE_LATER, partial(self._do, partial(self._write, order, chunks), failed, self._written))

    def read(self, order: ReadOrder, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Read a file soon. is_wanted: whether it still has to be begun when it is its turn."""
        failed: Loaded = (ReadOutcome(order, "failed"), None)
        read = partial(self._do, partial(self._read, order), failed, self._loaded)
        self._put(READ_FIRST, lambda turn: read(turn) if is_wanted() else None)

    def take(self) -> tuple[list[WriteOutcome], list[Loaded]]:
        """Return the outcomes that have come since the last call."""
        with self._changed:
            taken = list(self._written), list(self._loaded)
            self._written.clear()
            self._loaded.clear()
        return taken

    def wait(self, timeout_s: float) -> None:
        """Wait until an outcome can be taken, or for so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._written or self._loaded, timeout_s)

    def forget(self) -> None:
        """Begin nothing that was asked for so far, and drop the outcomes. A file under way is waited for."""
        with self._changed:
            self._turn += 1
            self._written.clear()
            self._loaded.clear()
            self._changed.wait_for(lambda: not self._is_busy, STOPPED_S)

    def _put(self, priority: int, job: Callable[[int], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
            self._thread.start()
        self._jobs.put((priority, next(self._numbers), partial(job, self._turn)))

    def _run(self) -> None:
        while True:
            self._jobs.get()[-1]()

    def _do(self, work: Callable[[], T], failed: T, outcomes: list[T], turn: int) -> None:
        """Do `work` and add its outcome, or `failed`, to `outcomes`, unless that is forgotten."""
        with self._changed:
            if turn != self._turn:
                return
            self._is_busy = True
        outcome = failed
        try:
            outcome = work()
        except Exception:
            logger.exception("a file of the disk cache cannot be read or written")
        with self._changed:
            self._is_busy = False
            if turn == self._turn:
                outcomes.append(outcome)
            self._changed.notify_all()
