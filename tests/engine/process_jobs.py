"""What the tests of the engine's process run in it. Nothing here imports MLX, which takes two seconds."""

import os
import time
from pathlib import Path
from typing import Any, NoReturn

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.engine.loading.model_error import ModelError
from pensieve.engine.step import StepPlan

from ..scheduler.oracle import OracleRunner


def build_oracle(num_blocks: int) -> tuple[OracleRunner, None]:
    return OracleRunner(num_blocks * BLOCK_SIZE), None


def fail_to_build() -> NoReturn:
    raise ModelError("no such model")


def build_once(count: Path, dies: bool) -> tuple[OracleRunner, None]:
    """Build a runner the first time; end the process the next, or raise."""
    if count.exists() and dies:
        os._exit(4)
    if count.exists():
        raise ModelError("gone: status 4")
    count.touch()
    return build_oracle(20)


def build_slowly(count: Path) -> tuple[OracleRunner, None]:
    """Build a runner the first time; take for ever the next."""
    if count.exists():
        time.sleep(600)
    count.touch()
    return build_oracle(20)


class Odd(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def fail_oddly(*arguments: Any) -> NoReturn:
    raise Odd(*arguments) if len(arguments) == 2 else ValueError(lambda: None)


def build_hanging(mark: Path, num_blocks: int) -> tuple[OracleRunner, None]:
    """Build a runner whose third step never ends, unless `mark` says that one has hung already."""

    def breaks(plan: StepPlan) -> bool:
        if plan.step_id >= 3 and not mark.exists():
            mark.touch()
            compute_for_ever()
        return False

    return OracleRunner(num_blocks * BLOCK_SIZE, breaks=breaks), None


def compute_for_ever() -> NoReturn:
    """Stand for a kernel without end: other threads go on."""
    while True:
        time.sleep(600)
