"""Runs what may wait for a disk: beside the event loop, by default."""

import queue
import threading
from collections import abc

Job = abc.Callable[[], None]

Run = abc.Callable[[Job], None]
"""Runs a job, now or later, after those that it was given before."""


class FolderThread:
    """Runs jobs in their order. The thread starts with the first one, and ends with the process."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __call__(self, job: Job) -> None:
        """Run `job` soon."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="disk folder", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _run(self) -> None:
        while True:
            self._jobs.get()()
