"""The server's own runner, stepped by hand. Keeps each step, new shapes of slices, and when tokens came."""

import random
import time
from collections import abc
from dataclasses import dataclass
from pathlib import Path

from ...api.command.command_line import make_parser
from ...api.command.flags import read_settings
from ...engine.loading.build import build, plan_model
from ...engine.step import SamplingParams, StepPlan
from ...scheduler.sequence import Request, Sequence
from .bare_engine import BareEngine, SteppedOnce, served_scheduler
from .case_report import spread_ms
from .served_sizes import ServedSizes

SliceShape = tuple[int, int]
"""A slice's number of tokens and its first position."""


@dataclass(frozen=True)
class TimedStep:
    """A step's plan, its seconds as the runner tells them, and how many of its slices had a new shape."""

    plan: StepPlan
    seconds: float
    num_new_shapes: int


class ServedEngine(BareEngine):
    """A model that is built as the server builds it, under the scheduler that the server would have."""

    def __init__(self, folder: Path, sizes: ServedSizes) -> None:
        settings = read_settings(make_parser().parse_args(["serve", "--model", str(folder), *sizes.flags]))
        started_s = time.perf_counter()
        runner, self.served = build(plan_model(folder, settings.engine, settings.scheduler.max_batch))
        self.build_s = time.perf_counter() - started_s
        super().__init__(runner, served_scheduler(self.served, settings.scheduler))
        self.sizes = sizes
        self.steps: list[TimedStep] = []
        self.times: dict[int, list[float]] = {}  # when each sequence's tokens came, by seq_id
        self._shapes: set[SliceShape] = set()
        self._planned: dict[int, StepPlan] = {}
        self._rng = random.Random()

    @property
    def has_queued_slices(self) -> bool:
        """Whether a step with slices of prompts has not ended yet."""
        return any(plan.prefill for plan in self._planned.values())

    def draw(self, count: int) -> list[int]:
        """Draw tokens that no other call has drawn."""
        return self._rng.choices(range(self.served.vocab_size), k=count)

    def add(self, prompt: list[int], max_tokens: int) -> Sequence:
        """Queue a prompt."""
        sequence = self.scheduler.add(Request(prompt, SamplingParams(), max_tokens))
        self.times[sequence.seq_id] = []
        return sequence

    def step(self) -> SteppedOnce:
        """See BareEngine."""
        stepped = super().step()
        now_s = time.perf_counter()
        if stepped.plan is not None:
            self._planned[stepped.plan.step_id] = stepped.plan
        for ended in stepped.times:
            plan = self._planned.pop(ended.step_id)
            shapes = {(len(chunk.tokens), chunk.start) for chunk in plan.prefill}
            self.steps.append(TimedStep(plan, ended.elapsed_s, len(shapes - self._shapes)))
            self._shapes |= shapes
        for progress in stepped.progress:
            self.times[progress.sequence.seq_id] += [now_s] * len(progress.tokens)
        return stepped

    def step_until_token(self, sequence: Sequence) -> float:
        """Step until a sequence has its first token; return when it came."""
        while not self.times[sequence.seq_id]:
            self.step()
        return self.times[sequence.seq_id][0]

    def end(self, sequences: abc.Iterable[Sequence]) -> None:
        """End sequences, finish what is queued, and empty the prefix cache."""
        for sequence in sequences:
            self.scheduler.end(sequence, "abort")
        self.finish()
        self.scheduler.reset_prefix_cache()


def describe_shapes(steps: abc.Sequence[TimedStep]) -> str:
    """Return how many slices had a new shape, and the times of steps with and without one."""
    with_slices = [step for step in steps if step.plan.prefill]
    new = [step.seconds for step in with_slices if step.num_new_shapes]
    known = [step.seconds for step in with_slices if not step.num_new_shapes]
    num_slices = sum(len(step.plan.prefill) for step in with_slices)
    return (
        f"slices: {num_slices} in {len(with_slices)} steps, "
        f"shapes not met before in this process: {num_new_shapes(steps)}; "
        f"steps with one took {sum(new):.2f} s, {spread_ms(new)}; "
        f"other steps with slices {sum(known):.2f} s, {spread_ms(known)}"
    )


def num_new_shapes(steps: abc.Iterable[TimedStep]) -> int:
    """Return how many shapes of slices these steps met first."""
    return sum(step.num_new_shapes for step in steps)


def describe_kinds(steps: abc.Sequence[TimedStep]) -> str:
    """Return where a workload's time went, a line for each kind of step."""
    kinds: dict[str, list[TimedStep]] = {}
    for step in steps:
        parts = [name for name, has in (("decode", step.plan.decode), ("slices", step.plan.prefill)) if has]
        kinds.setdefault(" + ".join(parts), []).append(step)
    lines = []
    for kind, own in kinds.items():
        tokens = sum(len(chunk.tokens) for step in own for chunk in step.plan.prefill)
        times = [step.seconds for step in own]
        rate = f", {tokens} prompt tokens, {tokens / sum(times):.0f} a second" if tokens else ""
        lines.append(f"{kind}: {len(own)} steps in {sum(times):.2f} s{rate}; {spread_ms(times)}")
    return "\n".join(lines)
