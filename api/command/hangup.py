"""What SIGHUP means: a server whose keys are in a file reads them anew, however early the signal comes.

Every other server ends in good order, as its terminal has closed, unless it is to outlive that (nohup).
"""

import asyncio
import signal
from collections.abc import Callable
from types import FrameType


class Hangup:
    """Keeps in mind that SIGHUP came while the server could not act on it."""

    def __init__(self, is_noted: bool = False) -> None:
        """is_noted: take SIGHUP from now on, only to note it until `answer`; it would end the process."""
        self._has_come = False
        if is_noted:
            signal.signal(signal.SIGHUP, self._note)

    def answer(self, loop: asyncio.AbstractEventLoop, reload: Callable[[], None]) -> None:
        """Call `reload` in a thread at each SIGHUP from now on, and once for all that have come before."""
        loop.add_signal_handler(signal.SIGHUP, loop.run_in_executor, None, reload)
        if self._has_come:
            loop.run_in_executor(None, reload)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._has_come = True


def ending_signals() -> tuple[signal.Signals, ...]:
    """Return the signals at which a server is to end: SIGHUP only where it has its default meaning."""
    is_free = signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    return signal.SIGTERM, signal.SIGINT, *((signal.SIGHUP,) if is_free else ())
