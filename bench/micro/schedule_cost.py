"""The cost of planning a step and taking its result, in microseconds of the event loop a decoding row.

    python -m pensieve.bench.micro.schedule_cost

The sequences only decode, and their tokens are made up: `Scheduler` is timed alone, for a model without and
with recurrent states. Printed is the best of --rounds rounds. A round is long enough that blocks fill and go
to the prefix tree.
"""

import argparse
import time
from dataclasses import dataclass, field

from ...engine.step import SamplingParams, StepResult, StepTime
from ...scheduler.config import SchedulerConfig
from ...scheduler.scheduler import Scheduler
from ...scheduler.sequence import Request

ROUND_STEPS = 200
CONTEXT = 300


@dataclass
class Batch:
    """Sequences that decode. lag: steps planned before the first result comes."""

    num_rows: int
    lag: int
    num_state_slots: int
    schedule_s: float = 0.0
    update_s: float = 0.0
    _results: list[StepResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._scheduler = Scheduler(SchedulerConfig(), 2**15, 100_000, self.num_state_slots)
        for token in range(self.num_rows):
            stops = frozenset({1, 2, 3})
            self._scheduler.add(Request([token] * CONTEXT, SamplingParams(), 100_000, stops))
        while self.step() < self.num_rows:
            pass

    def step(self) -> int:
        """Plan a step and take a result; return the number of rows in the plan."""
        started_s = time.perf_counter()
        plan = self._scheduler.schedule()
        self.schedule_s += time.perf_counter() - started_s
        assert plan is not None
        tokens = {row.seq_id: 7 + plan.step_id % 11 for row in plan.decode}
        self._results.append(StepResult(plan.step_id, tokens))
        if len(self._results) > self.lag:
            result = self._results.pop(0)
            started_s = time.perf_counter()
            self._scheduler.take_time(StepTime(result.step_id, 0.001))
            self._scheduler.update(result)
            self.update_s += time.perf_counter() - started_s
        return len(plan.decode)

    def time_round(self) -> tuple[float, float]:
        """Return the microseconds a row of planning, and of taking results."""
        self.schedule_s = self.update_s = 0.0
        for _ in range(ROUND_STEPS):
            self.step()
        scale = 1e6 / (ROUND_STEPS * self.num_rows)
        return self.schedule_s * scale, self.update_s * scale


def main() -> None:
    """Print a line for each batch and lag."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    for num_rows in (16, 32):
        for lag in (0, 1):
            for num_state_slots in (0, 256):
                batch = Batch(num_rows, lag, num_state_slots)
                schedule, update = min((batch.time_round() for _ in range(options.rounds)), key=sum)
                print(
                    f"{num_rows} rows, {lag} ahead, {num_state_slots} state slots: "
                    f"{schedule:.2f} to plan + {update:.2f} to take a row"
                )


if __name__ == "__main__":
    main()
