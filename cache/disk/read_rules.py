"""When the disk is read: where that takes less time than computing, and as long as it does."""

from collections import abc

from .write_rules import Clock

MOST_UNKNOWN_S = 30.0
"""Seconds that are read at most before it is known how long computing takes."""


class ReadRate:
    """How fast files are read and verified, as measured.

    A disk that was slow is believed to have become faster, twice a minute's time, until it is measured again:
    what is never read would be slow for ever.
    """

    NEWEST = 0.25
    """Share of the newest measurement."""

    GUESS = 500e6
    """Bytes per second before the first measurement: a slow disk or a slow sha256."""

    DOUBLED_S = 60.0
    """Seconds in which a rate below the guess doubles."""

    FIXED_S = 0.01
    """Seconds a file beside its bytes: messages between the processes, opening, placing its KV."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rate = self.GUESS
        self._measured_at = clock()

    @property
    def bytes_per_s(self) -> float:
        """What a read is expected to reach now."""
        if self._rate >= self.GUESS:
            return self._rate
        doublings = max(0.0, self._clock() - self._measured_at) / self.DOUBLED_S
        return min(self.GUESS, self._rate * 2 ** min(doublings, 64.0))

    def measured(self, num_bytes: int, seconds: float) -> None:
        """Note that reading `num_bytes` has taken `seconds`."""
        if num_bytes >= 2**16 and seconds > 0:  # the time of a smaller file says nothing of the rate
            known = self.bytes_per_s
            self._set(known + self.NEWEST * (num_bytes / seconds - known))

    def unfinished(self, num_bytes: int, seconds: float) -> None:
        """Note that reading `num_bytes` was given up after `seconds`; 0 where nothing is known of it."""
        if seconds > 0:
            self._set(min(self.bytes_per_s, num_bytes / seconds))

    def is_worth(self, sizes: abc.Sequence[int], computed_s: float | None) -> bool:
        """Return whether files of these sizes are read in less time than computing takes.

        computed_s: None where that is not known yet.
        """
        return self.seconds(sizes) < (MOST_UNKNOWN_S if computed_s is None else computed_s)

    def seconds(self, sizes: abc.Sequence[int]) -> float:
        """Return how long files of these sizes take to read."""
        return sum(sizes) / self.bytes_per_s + self.FIXED_S * len(sizes)

    def _set(self, rate: float) -> None:
        self._rate, self._measured_at = rate, self._clock()


class ReadPace:
    """How fast the files of one restore come in, one after another."""

    FEWEST_LOOKS = 4
    """Looks at a file that has not come before its time says anything: outcomes come with later steps."""

    def __init__(self, num_bytes: int, clock: Clock) -> None:
        """num_bytes: of all its files."""
        self._clock = clock
        self._begun_at = self._read_at = clock()
        self._num_left, self._num_read = num_bytes, 0
        self._num_looks = 0

    def read(self, num_bytes: int) -> None:
        """Note that a file has come."""
        self._num_read += num_bytes
        self._num_left -= num_bytes
        self._read_at, self._num_looks = self._clock(), 0

    def is_too_slow(self, computed_s: float | None) -> bool:
        """Look whether the rest takes longer to read than to compute.

        So it does where the next file alone has taken that long, or the rest would at the pace so far.
        computed_s: the time to compute it; None where that is not known.
        """
        self._num_looks += 1
        most_s = MOST_UNKNOWN_S if computed_s is None else computed_s
        rest_s = (self._read_at - self._begun_at) * self._num_left / self._num_read if self._num_read else 0.0
        return self._num_looks >= self.FEWEST_LOOKS and max(rest_s, self._clock() - self._read_at) > most_s
