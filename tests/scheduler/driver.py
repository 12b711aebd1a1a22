"""Drives a scheduler over an oracle, for the tests of this folder."""

import random

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.engine.step import SamplingParams, StepFailed, StepPlan
from pensieve.scheduler.config import SchedulerConfig
from pensieve.scheduler.scheduler import Scheduler
from pensieve.scheduler.sequence import Request

from .oracle import OracleRunner


def request(prompt: list[int], max_tokens: int = 4, stop: set[int] | None = None) -> Request:
    return Request(prompt, SamplingParams(), max_tokens, frozenset(stop or ()))


class Driver:
    """Steps a scheduler over an oracle and checks its accounts after every step."""

    def __init__(self, num_blocks: int = 64, lag: int = 0, max_batch: int = 8, step_tokens: int = 64) -> None:
        self.scheduler = Scheduler(SchedulerConfig(max_batch, step_tokens), num_blocks, max_context=100_000)
        self.runner = OracleRunner(num_blocks * BLOCK_SIZE, lag)

    def step(self) -> StepPlan | None:
        plan = self.scheduler.schedule()
        running = self.scheduler.roster.running
        assert plan is None or {sequence.seq_id for sequence in running}.issuperset(plan.seq_ids)
        result = self.runner.drain() if plan is None else self.runner.step(plan)
        if result is not None:
            self.scheduler.update(result)
        allocator = self.scheduler.memory.allocator
        assert allocator.num_held == len({block for sequence in running for block in sequence.table.blocks})
        assert all(sequence.num_settled <= sequence.num_computed for sequence in running)
        return plan

    def finish(self) -> None:
        for _ in range(100_000):
            if not self.scheduler.has_work:
                return
            self.step()
        raise AssertionError("no progress")


def prompt_of(seed: int, length: int) -> list[int]:
    return [random.Random(seed * 1000 + i).randrange(1000) for i in range(length)]


def run_with_faults(driver: Driver) -> None:
    """Step to the end, letting the scheduler recover from each failed step."""
    for _ in range(10_000):
        if not driver.scheduler.has_work:
            return
        try:
            driver.step()
        except StepFailed:
            driver.scheduler.fail()
    raise AssertionError("no progress")
