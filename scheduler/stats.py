"""A snapshot of the scheduler's state and counters, for /health and /metrics."""

from dataclasses import asdict, dataclass, field
from typing import Literal

from ..cache.disk.disk_stats import DiskStats
from ..engine.hang_watch import EngineState
from .counters import Counters
from .origin import WorkClass

ServerState = EngineState | Literal["stopping", "error"]
"""Stopping: no new request is taken. Error: the engine is given up."""


@dataclass(frozen=True, slots=True)
class SessionStats:
    """How many sessions do what, and what the device has computed for which class of work.

    device_s: seconds of all measured steps, divided among their rows and slices.
    """

    num_running: int = 0  # with a request that runs
    num_waiting: int = 0  # whose requests all wait
    num_idle: int = 0  # without a request
    device_s: dict[WorkClass, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, int | float]:
        """Return the numbers by name, each class of work as a number of its own."""
        counts = {"running": self.num_running, "waiting": self.num_waiting, "idle": self.num_idle}
        numbers: dict[str, int | float] = {f"num_sessions_{state}": count for state, count in counts.items()}
        return numbers | {f"device_{name}_s": round(seconds, 6) for name, seconds in self.device_s.items()}


@dataclass(frozen=True, slots=True)
class Stats:
    """The scheduler at one moment."""

    num_running: int
    num_waiting: int
    blocks_total: int
    blocks_free: int
    blocks_cached: int  # kept for reuse only; may be evicted
    blocks_held: int  # in use by sequences
    states_total: int  # slots for recurrent states; 0 for models without them
    states_free: int
    states_cached: int  # checkpoints that no sequence uses; may be evicted
    states_held: int  # in use by sequences
    window_blocks_total: int  # of layers that see a window only; 0 where all layers keep all tokens
    window_blocks_free: int
    window_blocks_cached: int  # those of checkpoints alone; may be evicted
    window_blocks_held: int  # in use by sequences
    counters: Counters  # a copy: later steps do not change it
    state: ServerState
    current_step_s: float  # how long the step under way has taken, 0 when idle
    engine_error: str | None  # why the engine is down, None while it is well
    queue_forecast_s: float = 0.0  # until the last of the waiting requests begins, about; 0 where none waits
    sessions: SessionStats = field(default_factory=SessionStats)
    disk: DiskStats | None = None  # None where nothing is kept on disk

    def as_dict(self) -> dict[str, int | float | str | None]:
        """Return all fields by name, with those of counters, sessions and disk in place of these."""
        fields: dict[str, int | float | str | None] = {}
        for name, value in asdict(self).items():
            if name == "counters":
                fields.update(value)
            elif name == "sessions":
                fields.update(self.sessions.as_dict())
            elif name == "disk":
                fields.update({f"disk_{key}": number for key, number in (value or {}).items()})
            else:
                fields[name] = value
        return fields
