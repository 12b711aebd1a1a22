"""Whether processes that tests did not start themselves are still there."""

import os
import time
from pathlib import Path


def wait_for_end(pid: int) -> None:
    """Wait until a process has ended, or is one that nobody has asked how it ended."""
    for _ in range(1200):  # a minute: on a busy machine ends take time
        if _has_ended(pid):
            return
        time.sleep(0.05)
    raise AssertionError("the process is still there")


def _has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"
