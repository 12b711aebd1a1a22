"""One record for each step of a bare engine, and a table of them by kind of step."""

import statistics
import time
from collections import abc
from dataclasses import dataclass
from typing import Literal

from ...engine.step import StepPlan
from ...scheduler.scheduler import Scheduler
from ..report import table
from .bare_engine import BareEngine, SteppedOnce, TimedRunner

Kind = Literal["decode", "slice", "decode + slice"]
Shape = tuple[int, int, int]


class OutOfTime(Exception):
    """The measurement has taken as long as it may."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step: the terms of a cost model, and the step's times in seconds."""

    part: str  # of the measurement: which workload the step belongs to
    kind: Kind
    rows: int  # decode rows
    rows_context: int  # tokens that the decode rows attend to, all rows together
    num_slices: int
    slice_tokens: int  # prompt tokens, all slices together
    slice_start: int  # position of the first slice's first token; 0 without slices
    slice_pairs: int  # pairs of a prompt token and a token that it attends to, all slices together
    seconds: float  # between this step's result and the one before, or the step's start if that is later
    host_seconds: float  # of the scheduler and of queueing the step, without waiting for tokens
    is_first: bool  # no step before had as many rows and a slice of this length at this position

    @property
    def shape(self) -> Shape:
        """Decode rows, prompt tokens and the slice's start: steps with the same three are alike."""
        return self.rows, self.slice_tokens, self.slice_start


class Recorder:
    """Keeps the records of several engines over one runner. `part` names those that follow."""

    def __init__(self, runner: TimedRunner, most_s: float) -> None:
        """most_s: seconds after which steps raise OutOfTime."""
        self.runner = runner
        self.records: list[StepRecord] = []
        self.part = ""
        self._shapes: set[Shape] = set()
        self._end_s = time.perf_counter() + most_s

    def check_time(self) -> None:
        """Raise OutOfTime when the measurement's time is over."""
        if time.perf_counter() > self._end_s:
            raise OutOfTime

    def add(self, plan: StepPlan, seconds: float, host_s: float) -> None:
        """Keep a record of a step whose result has come."""
        sizes = [len(chunk.tokens) for chunk in plan.prefill]
        starts = [chunk.start for chunk in plan.prefill]
        pairs = sum(size * start + size * (size + 1) // 2 for size, start in zip(sizes, starts, strict=True))
        kind: Kind = "decode" if not sizes else "decode + slice" if plan.decode else "slice"
        shape = len(plan.decode), sum(sizes), starts[0] if starts else 0
        context = sum(row.position + 1 for row in plan.decode)
        self.records.append(
            StepRecord(
                part=self.part,
                kind=kind,
                rows=len(plan.decode),
                rows_context=context,
                num_slices=len(sizes),
                slice_tokens=sum(sizes),
                slice_start=shape[2],
                slice_pairs=pairs,
                seconds=seconds,
                host_seconds=host_s,
                is_first=shape not in self._shapes,
            )
        )
        self._shapes.add(shape)


class RecordedEngine(BareEngine):
    """A bare engine that gives a recorder every step."""

    def __init__(self, recorder: Recorder, scheduler: Scheduler) -> None:
        super().__init__(recorder.runner, scheduler)
        self._recorder = recorder
        self._planned: dict[int, tuple[StepPlan, float]] = {}  # by step_id, with the host's seconds

    def step(self) -> SteppedOnce:
        """As BareEngine. Raises OutOfTime."""
        self._recorder.check_time()
        runner = self._recorder.runner
        started_s, waited_s = time.perf_counter(), runner.wait_s
        stepped = super().step()
        host_s = time.perf_counter() - started_s - (runner.wait_s - waited_s)
        if stepped.plan is not None:
            self._planned[stepped.plan.step_id] = stepped.plan, host_s
        for ended in stepped.times:
            plan, host_s = self._planned.pop(ended.step_id)
            self._recorder.add(plan, ended.elapsed_s, host_s)
        return stepped


HEAD = ("step", "steps", "first ms", "median ms", "range ms", "prompt tokens/s", "host %")


def describe(records: abc.Sequence[StepRecord], depth: int, least: int = 3) -> str:
    """Return a table, a line for each kind of step, number of rows, slice length and depth of the slice.

    depth: slices whose starts lie within the same `depth` tokens share a line.
    least: groups of fewer steps are left out.
    """
    groups: dict[tuple[int, int, int], list[StepRecord]] = {}
    for record in records:
        groups.setdefault((record.rows, record.slice_tokens, record.slice_start // depth), []).append(record)
    lines = [_line(groups[key], key[2] * depth) for key in sorted(groups) if len(groups[key]) >= least]
    return table(HEAD, lines)


def _line(group: list[StepRecord], start: int) -> list[str]:
    """The first time of a shape apart; all other figures are of shapes that were met before."""
    one = group[0]
    parts = [f"decode {one.rows}"] if one.rows else []
    parts += [f"slice {one.slice_tokens} from {start}"] if one.slice_tokens else []
    first = [1e3 * record.seconds for record in group if record.is_first]
    again = [record for record in group if not record.is_first] or group
    times = [1e3 * record.seconds for record in again]
    median, total_s = statistics.median(times), sum(record.seconds for record in again)
    return [
        " + ".join(parts),
        str(len(group)),
        f"{statistics.median(first):.1f}" if first else "-",
        f"{median:.1f}",
        f"{min(times):.1f} to {max(times):.1f}",
        f"{1e3 * one.slice_tokens / median:.0f}" if one.slice_tokens else "-",
        f"{100 * sum(record.host_seconds for record in again) / total_s:.0f}",
    ]


def describe_kinds(records: abc.Sequence[StepRecord]) -> str:
    """Return a table of a whole workload, a line for each kind of step: where the time went."""
    lines = []
    for kind in ("slice", "decode + slice", "decode"):
        own = [record for record in records if record.kind == kind]
        if own:
            times, tokens = [record.seconds for record in own], sum(record.slice_tokens for record in own)
            rows = sum(record.rows for record in own) / len(own)
            ends = f"{1e3 * statistics.median(times):.1f}", f"{1e3 * max(times):.1f}"
            rate = f"{tokens / sum(times):.0f}"
            lines.append([kind, str(len(own)), f"{sum(times):.2f}", *ends, f"{rows:.1f}", str(tokens), rate])
    head = ("step", "steps", "seconds", "median ms", "max ms", "rows", "prompt tokens", "prompt tokens/s")
    return table(head, lines)
