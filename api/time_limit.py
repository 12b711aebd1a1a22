"""Bounds the time of Python code that may never end, such as a chat template's.

The exception is raised by another thread, between two bytecodes of the one that runs too long; so it costs
nothing while all is well, and it cannot end one call of C that takes for ever.
"""

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TimeIsUp(Exception):
    """The code has run too long."""


class _Interrupt(BaseException):
    """What is raised in the code; no `except Exception` within it may swallow this."""


class _Guard:
    """Interrupts one thread, unless it has been closed."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._is_closed = False

    def interrupt(self) -> None:
        with self._lock:
            if not self._is_closed:
                thread, exception = ctypes.c_ulong(self._thread), ctypes.py_object(_Interrupt)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, exception)

    def close(self) -> None:
        """Interrupt no more. An exception that is on its way arrives before this returns."""
        with self._lock:
            self._is_closed = True


def run_limited(code: Callable[[], T], limit_s: float) -> T:
    """Run `code` in this thread. Raises TimeIsUp when it takes longer than `limit_s` seconds."""
    guard = _Guard()
    timer = threading.Timer(limit_s, guard.interrupt)
    timer.daemon = True
    try:
        try:
            timer.start()
            return code()
        finally:
            guard.close()
            timer.cancel()
    except _Interrupt:
        raise TimeIsUp(f"it takes longer than {limit_s:g} s") from None
