"""The engine's thread: one owner of MLX, and an interpreter that ends well."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import mlx_lm.utils
import pytest
from pensieve.engine.runner import Runner
from pensieve.engine.step import SamplingParams, StepPlan
from pensieve.engine.thread import EngineThread
from pensieve.scheduler.config import SchedulerConfig
from pensieve.scheduler.loop import SchedulerLoop
from pensieve.scheduler.sequence import Request

from ..models import write_model
from .harness import Verdict


def test_many_requests_through_the_thread_are_exact(tmp_path: Path) -> None:
    model: Any = mlx_lm.utils.load_model(write_model(tmp_path))[0]
    engine = EngineThread()
    engine.start(lambda: Runner(model, 200, on_host=True))

    async def main() -> list[Any]:
        loop = SchedulerLoop(engine, SchedulerConfig(max_batch=4, step_tokens=64), 200, 4096)
        task = asyncio.create_task(loop.run())
        requests = [Request([i] * (20 * i + 1), SamplingParams(), 10) for i in range(8)]
        generations = [loop.submit(request) for request in requests]
        for generation in generations:
            async for _ in generation:
                pass
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return [generation._sequence for generation in generations]

    verdict = Verdict()
    for sequence in asyncio.run(main()):
        verdict.judge(model, sequence)
    engine.close()
    assert (verdict.tokens, verdict.wrong) == (80, 0)


def test_what_build_raises_reaches_the_caller() -> None:
    engine = EngineThread()

    def build() -> Runner:
        assert threading.current_thread().name.startswith("mlx")
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        engine.start(build)
    engine.close()


def test_an_empty_plan_costs_nothing(tmp_path: Path) -> None:
    model: Any = mlx_lm.utils.load_model(write_model(tmp_path))[0]
    result = Runner(model, 20, on_host=True).step(StepPlan(1))
    assert result is not None
    assert result.tokens == {}


EXIT = """
import sys
from pathlib import Path
import pensieve.engine
import mlx_lm.utils
from pensieve.engine.runner import Runner
from pensieve.engine.step import PrefillChunk, StepPlan
from pensieve.engine.thread import EngineThread

engine = EngineThread()
engine.start(lambda: Runner(mlx_lm.utils.load_model(Path(sys.argv[1]))[0], 20, on_host=True))
engine.call(lambda: engine._runner.step(StepPlan(1, [], [PrefillChunk(1, [1, 2, 3], 0, ((0, 3),))])))
engine.close()
"""


def test_the_process_ends_cleanly_after_the_thread_has_been_closed(tmp_path: Path) -> None:
    """MLX's stream threads aborted the process in 17 of 25 exits before close() cleared them."""
    folder = write_model(tmp_path)
    for _ in range(4):
        done = subprocess.run(
            [sys.executable, "-c", EXIT, str(folder)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
