"""When the disk is written: an hour's budget, and pauses after failures."""

import logging
from collections import abc

logger = logging.getLogger(__name__)

Clock = abc.Callable[[], float]
"""Seconds that never go backwards, whatever happens to the time of day."""

HOUR_S = 3600.0


class WriteBudget:
    """Bytes that may be written, so that a disk is not worn out: in no hour more than `hourly_bytes`.

    Half of them may be written at once, and half come back in an hour. What nobody has used twice is written
    only while at least half of what may be written at once is there.
    """

    def __init__(self, hourly_bytes: int, clock: Clock) -> None:
        self._most = hourly_bytes / 2
        self._left = self._most
        self._clock = clock
        self._filled_at = clock()

    def take(self, num_bytes: int, is_reused: bool) -> bool:
        """Take `num_bytes` from the budget; return False, taking nothing, where it does not have them."""
        now = self._clock()
        self._left = min(self._most, self._left + self._most * max(0.0, now - self._filled_at) / HOUR_S)
        self._filled_at = now
        if self._left - num_bytes < (0 if is_reused else self._most / 2):
            return False
        self._left -= num_bytes
        return True

    def give_back(self, num_bytes: int) -> None:
        """Put back what was taken, and not written."""
        self._left = min(self._most, self._left + num_bytes)


class FailurePauses:
    """After a failure of the disk nothing is tried for a while, longer each time; at last nothing at all."""

    MAX_IN_ROW = 8
    FIRST_S = 1.0
    LONGEST_S = 60.0

    def __init__(self, clock: Clock) -> None:
        self.is_off = False
        self._clock = clock
        self._num_in_row = 0
        self._until = clock()

    @property
    def is_paused(self) -> bool:
        """Whether the disk must not be written now."""
        return self.is_off or self._clock() < self._until

    def succeeded(self) -> None:
        """Note that the disk has written a file. What is read may come from memory, and says nothing."""
        self._num_in_row = 0

    def failed(self, why: str) -> None:
        """Note a failure. Those of what was asked for before the last one was known count with that one."""
        if self.is_paused:
            return
        pause = min(self.FIRST_S * 2**self._num_in_row, self.LONGEST_S)
        self._num_in_row += 1
        self._until = self._clock() + pause
        if self._num_in_row >= self.MAX_IN_ROW:
            self.is_off = True
            logger.warning("the disk tier is off: its disk has failed %d times: %s", self._num_in_row, why)
        else:
            logger.debug("the disk has failed: %s; it is tried again in %.0f s", why, pause)
