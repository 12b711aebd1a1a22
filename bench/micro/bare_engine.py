"""The scheduler and the runner in one thread, without HTTP, event loop or a process of the engine's own."""

import time
from dataclasses import replace
from typing import NamedTuple

import mlx.core as mx

from ...cache.blocks import BLOCK_SIZE
from ...engine.attention.paged_model import PagedModel
from ...engine.find_functions import find_functions
from ...engine.fused_model import fuse
from ...engine.mixed_check import choose_mixed_tokens
from ...engine.paged_caches import Capacity
from ...engine.recurrent.parted_layers import with_parts
from ...engine.runner import Runner
from ...engine.selfcheck import usable_kernels
from ...engine.served_model import ServedModel
from ...engine.step import StepPlan, StepResult, StepsDone, StepTime
from ...engine.step_in_flight import Sampled, SlicesInFlight, StepInFlight
from ...scheduler.config import SchedulerConfig
from ...scheduler.scheduler import Scheduler
from ...scheduler.sequence import Progress, Sequence


class TimedRunner(Runner):
    """A runner that adds up the host's time.

    build_s: seconds in which forward passes were built, or computed where NumPy attends.
    wait_s: seconds of waiting for sampled tokens, and for the end of slices.
    """

    build_s = wait_s = 0.0

    def _forward(self, plan: StepPlan) -> Sampled:
        started_s = time.perf_counter()
        sampled = super()._forward(plan)
        self.build_s += time.perf_counter() - started_s
        return sampled

    def _read(self, step: StepInFlight) -> StepResult:
        begun_s = time.perf_counter()
        result = super()._read(step)
        self.wait_s += time.perf_counter() - begun_s
        return result

    def _end(self, slices: SlicesInFlight) -> StepTime:
        begun_s = time.perf_counter()
        ended = super()._end(slices)
        self.wait_s += time.perf_counter() - begun_s
        return ended


def in_served_form(paged: PagedModel, on_host: bool) -> PagedModel:
    """Return the model as the server runs it: with fused layers on a GPU, and with faster functions."""
    paged = paged if on_host else fuse(paged)
    return with_parts(replace(paged, functions=find_functions(paged.model, on_host)))


def timed_runner(paged: PagedModel, num_tokens: int) -> TimedRunner:
    """Return a runner as the server would make it, with room for the KV of `num_tokens` tokens."""
    on_host = mx.default_device().type == mx.cpu
    paged = in_served_form(paged, on_host)
    kernels = None if on_host else usable_kernels(paged)
    num_blocks, mixed_tokens = -(-num_tokens // BLOCK_SIZE), choose_mixed_tokens(paged, on_host)
    return TimedRunner(paged, Capacity(num_blocks), on_host, kernels, mixed_tokens)


def served_scheduler(served: ServedModel, config: SchedulerConfig) -> Scheduler:
    """Return a scheduler as the server makes it from its flags for a model that `build` has made."""
    config = config.with_step_tokens(served.step_tokens)
    return Scheduler(config, served.num_blocks, served.max_context, served.num_state_slots, served.window)


class SteppedOnce(NamedTuple):
    """One turn of the loop: the step that was queued, the steps that have ended, and what their rows got."""

    plan: StepPlan | None
    times: tuple[StepTime, ...]
    progress: list[Progress]


class BareEngine:
    """A scheduler over a runner, stepped by hand. plan_s: seconds that planning has taken."""

    def __init__(self, runner: Runner, scheduler: Scheduler) -> None:
        self.runner = runner
        self.scheduler = scheduler
        self.plan_s = 0.0

    def step(self) -> SteppedOnce:
        """Plan a step, queue it, and take what has come."""
        self.runner.proceed()  # the server's engine does so while a step is planned in another process
        started_s = time.perf_counter()
        plan = self.scheduler.schedule()
        self.plan_s += time.perf_counter() - started_s
        done = self.runner.drain() if plan is None else self.runner.step(plan)
        return SteppedOnce(plan, done.times, self.take(done))

    def take(self, done: StepsDone) -> list[Progress]:
        """Give the scheduler what has come; return what each sequence got."""
        for step_time in done.times:
            self.scheduler.take_time(step_time)
        taken: dict[Sequence, Progress] = {}
        for result in done.results:
            for new in self.scheduler.update(result):
                before = taken.get(new.sequence, Progress(new.sequence))
                tokens, logprobs = before.tokens + new.tokens, before.logprobs + new.logprobs
                taken[new.sequence] = Progress(new.sequence, tokens, logprobs)
        return list(taken.values())

    def finish(self) -> None:
        """Step until every sequence has ended and no result is to come."""
        while self.scheduler.has_work:
            self.step()
