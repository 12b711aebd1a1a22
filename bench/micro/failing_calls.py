"""Makes calls of the disk tier fail in a server that a bench starts, as a file says, which may change.

The bench names the file in the environment, and puts a folder with a `sitecustomize.py` that calls `install`
before the others in the path of Python. The file has four words: a call's name (a method of FileLayer), the
errno, the number of the first call that fails, counted since the file has had these words, and how many do.
With an errno of 0 they never return.
"""

import os
import threading
from collections import abc
from functools import wraps
from pathlib import Path
from typing import Any

from ...cache.disk.file_layer import FileLayer
from ...cache.disk.write_rules import FailurePauses

VARIABLE = "PENSIEVE_BENCH_FAILURES"
"""Of the environment: the file's path."""

SITE = "from pensieve.bench.micro.failing_calls import install\ninstall()\n"
"""The content of `sitecustomize.py`."""

CALLS = (
    "open_new",
    "write",
    "sync",
    "rename",
    "sync_folder",
    "open_existing",
    "read_into",
    "remove",
    "free_bytes",
)

HANGS = 0
"""In place of an errno: the call does not return."""

PAUSE_S = 0.05
"""The longest pause after a failure, so that a bench sees several of them."""


class FailingCalls:
    """Counts calls, and says which of them fail."""

    def __init__(self, script: Path) -> None:
        self._script = script
        self._words: list[str] = []
        self._num_calls = 0

    def check(self, name: str) -> None:
        """Raise OSError if the call that is about to be made is to fail."""
        words = self._script.read_text(encoding="utf-8").split()
        if words != self._words:
            self._words, self._num_calls = words, 0
        if not words or words[0] != name:
            return
        self._num_calls += 1
        code, first, count = map(int, words[1:])
        if first <= self._num_calls < first + count:
            if code == HANGS:
                threading.Event().wait()
            raise OSError(code, os.strerror(code))


def install() -> None:
    """Let calls of this process fail if the environment says so."""
    if (path := os.environ.get(VARIABLE)) is None:
        return
    failing = FailingCalls(Path(path))
    for name in CALLS:
        setattr(FileLayer, name, _checked(failing, name, getattr(FileLayer, name)))
    FailurePauses.FIRST_S = FailurePauses.LONGEST_S = PAUSE_S


def _checked(failing: FailingCalls, name: str, call: abc.Callable[..., Any]) -> abc.Callable[..., Any]:
    @wraps(call)
    def checked(*arguments: Any) -> Any:
        failing.check(name)
        return call(*arguments)

    return checked
