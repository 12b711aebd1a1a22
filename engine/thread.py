"""The one thread that may touch MLX.

A lazy array of one thread cannot be evaluated on another, and two threads that evaluate one graph crash the
process. So model, pools and streams are made, used and dropped on a single worker, and only plain data
crosses. The worker must have ended before the interpreter does, or its thread aborts the process.
"""

import asyncio
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import mlx.core as mx

from .runner import Runner
from .step import StepPlan, StepResult

T = TypeVar("T")


class EngineThread:
    """Runs a Runner on a thread of its own; the scheduler's `Engine`."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlx")
        self._runner: Runner | None = None

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the thread and wait for it; for what must happen before serving starts."""
        return self._executor.submit(function).result()

    def start(self, build: Callable[[], Runner]) -> None:
        """Build the runner on the thread; raises what `build` raises."""

        def keep() -> None:
            self._runner = build()

        self.call(keep)

    async def step(self, plan: StepPlan) -> StepResult | None:
        """See Engine.step."""
        assert self._runner is not None, "start() comes first"
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._runner.step, plan)

    async def drain(self) -> StepResult | None:
        """See Engine.drain."""
        assert self._runner is not None, "start() comes first"
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._runner.drain)

    def close(self) -> None:
        """Drop the runner on its thread and end the thread; waits for a step under way."""

        def drop() -> None:
            self._runner = None
            gc.collect()
            mx.clear_cache()
            # MLX's own threads for this thread's streams outlive it otherwise, and abort the process at its
            # exit (MLX 0.32.4 on Linux, 15 of 36 exits).
            mx.clear_streams()

        self.call(drop)
        self._executor.shutdown(wait=True)
