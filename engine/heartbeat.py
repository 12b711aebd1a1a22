"""The heartbeats of the engine's process, over a pipe, and the signal on which it writes where it stands."""

import faulthandler
import os
import signal
import threading
import time

from .hang_watch import LOOK_S

DUMP_SIGNAL = signal.SIGUSR1
"""Makes the engine's process write the stacks of its threads to the log, whatever it computes."""

READ_BYTES = 2**16


class Heartbeat:
    """The reader's end of the pipe. `sender` is the other end, for the process that beats."""

    def __init__(self) -> None:
        reader, self.sender = os.pipe()
        for end in (reader, self.sender):
            os.set_blocking(end, False)
        self._reader = open(reader, "rb", buffering=0)  # noqa: SIM115  (closed by close())

    def has_beaten(self) -> bool:
        """Return whether a heartbeat has come since the last call."""
        return bool(self._reader.read(READ_BYTES))

    def close(self) -> None:
        """Close the reader's end. Further calls do nothing."""
        self._reader.close()


def show_life(sender: int) -> None:
    """Send heartbeats from now on, and write all stacks at DUMP_SIGNAL. For the process that beats."""
    faulthandler.register(DUMP_SIGNAL, all_threads=True)
    threading.Thread(target=_beat, args=(sender,), daemon=True, name="heartbeat").start()


def _beat(sender: int) -> None:
    while True:
        try:
            os.write(sender, b".")
        except BlockingIOError:
            pass  # nobody has read for hours: the pipe is full
        except OSError:
            return  # the reader has gone, and this process ends with it
        time.sleep(LOOK_S)
