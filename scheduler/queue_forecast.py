"""When the queue will have room, and when a waiting request will have its first token.

The queue moves as fast as it has moved lately: the time for which sequences have waited, divided by the
sequences that began to run in it. Requests that are refused get places in a queue that exists only here, so
that they do not all come back at once for the one place that becomes free.
"""

import math
from typing import NamedTuple

MEMORY_S = 60.0
"""Seconds of waiting after which the past counts for a third: answers of other lengths may come."""

FIRST_GUESS_S = 1.0
"""Seconds from one sequence's start to the next one's, before any has started while others waited."""

MAX_RETRY_AFTER_S = 60.0
"""Longest time after which a refused client is told to come back: it gives up where it should wait longer."""


class Outlook(NamedTuple):
    """How far a request is from its first token.

    num_ahead: sequences that wait before it; None once it runs. num_computed: tokens of the prompt whose KV
    is there, cached ones among them. seconds: until the first token, about; None where nothing tells.
    """

    num_ahead: int | None
    num_computed: int
    num_prompt_tokens: int
    seconds: float | None


class QueueForecast:
    """What the queue's past says of its future. The callers tell the time, in seconds of one clock."""

    def __init__(self) -> None:
        self._waited_s = 0.0  # of which MEMORY_S count
        self._num_started = 0.0
        self._since_s: float | None = None  # when sequences began to wait, or were seen waiting last
        self._promised_s = 0.0  # when the refused client comes back that was told to come last

    def observe(self, now_s: float, num_started: int, is_waiting: bool) -> None:
        """Note that sequences have begun to run, and whether others wait still."""
        if self._since_s is not None:
            elapsed_s = now_s - self._since_s
            kept = math.exp(-elapsed_s / MEMORY_S)
            self._waited_s = self._waited_s * kept + elapsed_s
            self._num_started = self._num_started * kept + num_started
        self._since_s = now_s if is_waiting else None

    def interval_s(self, now_s: float) -> float:
        """Return the seconds from one waiting sequence's start to the next one's."""
        waited_s = self._waited_s + (now_s - self._since_s if self._since_s is not None else 0.0)
        if self._num_started < 1:
            return max(FIRST_GUESS_S, waited_s)
        return waited_s / self._num_started

    def refuse(self, now_s: float) -> float:
        """Return after how many seconds a client should come back that is refused now."""
        queued_s = max(0.0, self._promised_s - now_s)
        retry_after_s = min(queued_s + self.interval_s(now_s), MAX_RETRY_AFTER_S)
        self._promised_s = now_s + retry_after_s
        return retry_after_s
