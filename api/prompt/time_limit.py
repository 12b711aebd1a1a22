"""Bounds the time of Python code that may never end, such as a chat template's.

Another thread raises an exception in the thread that runs too long, between two bytecodes. Code that keeps to
the limit is not slowed down; a single call of C code cannot be interrupted.
"""

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

PAUSE_S = 0.1  # between one interrupt and the next

T = TypeVar("T")


class TimeIsUp(Exception):
    """The code has run too long."""


class _Interrupt(BaseException):
    """Raised in the code; a BaseException, so that no `except Exception` of the code catches it."""


class _Guard:
    """Interrupts one thread when its time is over, again and again until it is closed.

    One interrupt is not enough: Python drops an exception that is raised in a destructor.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._watch, name="time limit", daemon=True).start()

    def close(self) -> None:
        """Stop interrupting. An interrupt that has been requested arrives before this returns."""
        with self._lock:
            self._closed.set()
        for _ in range(3):  # Python checks for such exceptions at each iteration of a loop
            pass

    def _watch(self) -> None:
        wait_s = self._limit_s
        while not self._closed.wait(wait_s):
            wait_s = PAUSE_S
            with self._lock:
                if not self._closed.is_set():
                    thread, exception = ctypes.c_ulong(self._thread), ctypes.py_object(_Interrupt)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, exception)


def run_limited(code: Callable[[], T], limit_s: float) -> T:
    """Run `code` in this thread. Raises TimeIsUp when it takes longer than `limit_s` seconds."""
    guard = _Guard(limit_s)
    try:
        try:
            guard.start()
            return code()
        finally:
            guard.close()
    except _Interrupt:
        guard.close()  # the call in `finally` may have been interrupted
        raise TimeIsUp(f"it takes longer than {limit_s:g} s") from None
