"""Bounds the time of Python code that may never end, such as a chat template's.

The exception is raised by another thread, between two bytecodes of the one that runs too long; so it costs
nothing while all is well, and it cannot end one call of C that takes for ever.
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
    """What is raised in the code; no `except Exception` within it may swallow this."""


class _Guard:
    """Interrupts one thread when its time is over, and again, unless it has been closed.

    Once is not enough: Python drops what is raised in a destructor that the garbage collector runs.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._watch, name="time limit", daemon=True).start()

    def close(self) -> None:
        """Interrupt no more. An exception that is on its way arrives before this returns."""
        with self._lock:
            self._closed.set()
        for _ in range(3):  # Python looks for exceptions from outside at the turns of a loop
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
        guard.close()  # the first time may have been interrupted
        raise TimeIsUp(f"it takes longer than {limit_s:g} s") from None
