"""What a session has used since it began: tokens, waiting, the device's time. It has no clock."""

import math
from dataclasses import dataclass

MEMORY_S = 60.0
"""Seconds after which use of the device counts for a third in its recent use."""


@dataclass(slots=True)
class SessionUsage:
    """Totals of one session's ended requests, and its use of the device, now and in all.

    began_s: when the session's first request came, by the clock that the scheduler is told.
    """

    began_s: float
    num_requests: int = 0
    num_prompt_tokens: int = 0  # of the requests that were admitted
    num_cached_tokens: int = 0  # of these, found in the cache
    num_generated_tokens: int = 0
    waited_s: float = 0.0  # from the requests' arrivals to their first steps
    device_ns: int = 0
    _recent_ms: float = 0.0
    _charged_s: float = 0.0

    def count(self, num_prompt: int, num_cached: int, num_generated: int) -> None:
        """Count a request that was admitted and has ended, by its numbers of tokens."""
        self.num_requests += 1
        self.num_prompt_tokens += num_prompt
        self.num_cached_tokens += num_cached
        self.num_generated_tokens += num_generated

    @property
    def device_ms(self) -> float:
        """Milliseconds in which the device has computed for the session."""
        return self.device_ns / 1e6

    def charge(self, device_ns: int, now_s: float) -> None:
        """Count nanoseconds in which the device has computed for the session."""
        self._recent_ms = self.recent_ms(now_s) + device_ns / 1e6
        self._charged_s = now_s
        self.device_ns += device_ns

    def recent_ms(self, now_s: float) -> float:
        """Return the device's milliseconds of late: an earlier one counts the less, see MEMORY_S."""
        return self._recent_ms * math.exp((self._charged_s - now_s) / MEMORY_S)
