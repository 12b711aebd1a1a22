"""Judges whether the engine's process hangs: by its heartbeats, and by how long it computes one step.

A stopped process, or one whose threads no longer run, sends no heartbeats. A kernel without end leaves the
heartbeats alone: there the step tells. How long a step may take depends on what is known of it. One like
steps before it has a predicted time, mostly of half a second at most; the first of its kind may compile
kernels.
"""

from dataclasses import dataclass
from typing import Literal

EngineState = Literal["ok", "stalled", "restarting"]

LOOK_S = 1.0
"""Seconds between two looks at the process, and between two of its heartbeats."""

SLOWNESS = 14
"""A step may take so many times its predicted time before anything is said of it."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds after which a process is called stalled, and after which it is replaced."""

    stalled_s: float
    hung_s: float

    def or_longer(self, other: "Patience") -> "Patience":
        """Return a patience that is as long as both."""
        return Patience(max(self.stalled_s, other.stalled_s), max(self.hung_s, other.hung_s))

    def times(self, factor: float) -> "Patience":
        """Return so many times this patience."""
        return Patience(self.stalled_s * factor, self.hung_s * factor)


SILENCE = Patience(5, 20)
"""Patience with a process that sends no heartbeats."""

STEP = Patience(7, 30)
"""Patience with a step like others that have been computed."""

FIRST_STEP = Patience(60, 120)
"""Patience with a step that is the first of its kind, for which the device may compile kernels."""


class HangWatch:
    """One engine's process as its heartbeats and results show it. It knows no clock: `look` tells time."""

    def __init__(self) -> None:
        self.is_restarting = False
        self._silent_s = 0.0
        self._step_s = 0.0
        self._patience: Patience | None = None  # with the step that is awaited, None between steps
        self._last_patience = STEP  # with the step that was sent last
        self._num_hangs = 0  # since a step was last computed

    @property
    def state(self) -> EngineState:
        """How the process is, as `GET /health` tells it."""
        if self.is_restarting:
            return "restarting"
        step = self._patience
        is_late = step is not None and self._step_s >= step.stalled_s
        return "stalled" if is_late or self._silent_s >= SILENCE.stalled_s else "ok"

    @property
    def hang(self) -> str | None:
        """Why the process is to be replaced; None while it need not be."""
        if self.is_restarting:
            return None
        if self._silent_s >= SILENCE.hung_s:
            return f"it has not moved for {self._silent_s:.0f} s"
        if self._patience is not None and self._step_s >= self._patience.hung_s:
            return f"it has computed one step for {self._step_s:.0f} s"
        return None

    def begin(self, expected_s: float | None) -> None:
        """Begin to wait for a result.

        expected_s: predicted time of the step that was sent; None for the first of its kind.
        The result may be that of the step before, where the device computes one while the next is queued.
        After each hang the patience is doubled: the device may have become slow.
        """
        patience = FIRST_STEP
        if expected_s is not None:
            patience = STEP.times(max(1, SLOWNESS * expected_s / STEP.stalled_s))
        self._step_s = 0.0
        self._patience = patience.or_longer(self._last_patience).times(2**self._num_hangs)
        self._last_patience = patience

    def end(self, is_computed: bool) -> None:
        """End the wait. is_computed: the result has come."""
        self._patience = None
        if is_computed:
            self._num_hangs = 0

    def look(self, elapsed_s: float, has_beaten: bool) -> None:
        """Count the time since the last look, and whether a heartbeat has come since."""
        # After a pause of this process itself (a closed laptop, say) the other one has its chance again.
        elapsed_s = min(elapsed_s, 2 * LOOK_S)
        self._silent_s = 0.0 if has_beaten else self._silent_s + elapsed_s
        self._step_s += elapsed_s

    def restart(self, is_hung: bool = False) -> None:
        """Begin to replace the process; nothing is expected of it until `restarted`."""
        self.is_restarting = True
        self._num_hangs += is_hung

    def restarted(self) -> None:
        """Begin anew with a process that has answered."""
        self.is_restarting = False
        self._silent_s = 0.0
