"""Shared by the tests of this folder: a scheduler over an oracle, requests and prompts."""

import random

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.engine.served_model import WindowPool
from pensieve.engine.step import SamplingParams
from pensieve.scheduler.config import SchedulerConfig
from pensieve.scheduler.scheduler import Scheduler
from pensieve.scheduler.sequence import Request

from ..stepper import Stepper
from .oracle import OracleRunner


def request(prompt: list[int], max_tokens: int = 4, stop: set[int] | None = None) -> Request:
    return Request(prompt, SamplingParams(), max_tokens, frozenset(stop or ()))


class Driver(Stepper):
    """A scheduler over an oracle."""

    runner: OracleRunner

    def __init__(
        self,
        num_blocks: int = 64,
        lag: int = 0,
        max_batch: int = 8,
        step_tokens: int = 64,
        num_state_slots: int = 0,
        window: WindowPool | None = None,
    ) -> None:
        config = SchedulerConfig(max_batch, step_tokens)
        runner = OracleRunner(num_blocks * BLOCK_SIZE, lag, num_state_slots=num_state_slots, window=window)
        super().__init__(Scheduler(config, num_blocks, 100_000, num_state_slots, window), runner)


def prompt_of(seed: int, length: int) -> list[int]:
    return [random.Random(seed * 1000 + i).randrange(1000) for i in range(length)]
