"""Ends processes that this process has started when this process ends, however it ends."""

import os
import signal
import subprocess
from contextlib import suppress

SCRIPT = 'cat; kill -s TERM -- "-$1"; sleep "$2"; kill -s KILL -- "-$1"'
"""Reads its input to the end, then ends the group of processes $1, $2 seconds later by force."""


class ProcessGuard:
    """Watches this process, and ends a group of processes after it.

    A process that is killed, or that SIGTERM ends (as `timeout` does), runs no `finally`; a server that it
    has started would go on and hold all memory of a GPU. The guard is a shell in a session of its own. Its
    standard input is a pipe that only this process holds, and that so is at its end when this process is.
    """

    def __init__(self, group: int, patience_s: int) -> None:
        """group: id of a group of processes. patience_s: seconds between SIGTERM and SIGKILL."""
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", SCRIPT, "sh", str(group), str(patience_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a signal to this process's group must not end the guard
        )

    def dismiss(self) -> None:
        """End the guard; the group has ended, and its number may be another's soon."""
        with suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait()
        assert self._shell.stdin is not None
        self._shell.stdin.close()
