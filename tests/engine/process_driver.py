"""Requests through an engine's process, for its tests."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

from pensieve.engine.process import EngineProcess
from pensieve.engine.served_model import WindowPool
from pensieve.scheduler.config import SchedulerConfig
from pensieve.scheduler.loop import SchedulerLoop
from pensieve.scheduler.scheduler import Scheduler
from pensieve.scheduler.sequence import Request
from pensieve.scheduler.token_stream import TokenStream

from ..scheduler.oracle import spell

NUM_BLOCKS = 200


def serve(
    engine: EngineProcess,
    requests: list[Request],
    kill_after: int | None = None,
    beside: tuple[int, WindowPool | None] = (0, None),
    meanwhile: Callable[[SchedulerLoop], Awaitable[None]] | None = None,
) -> list[TokenStream]:
    """Run requests together; kill the engine's process once so many tokens have come.

    beside: state slots and windows, which the engine keeps beside the KV of all tokens.
    """

    async def read(generation: TokenStream) -> None:
        async for _ in generation:
            pass

    async def main() -> list[TokenStream]:
        config = SchedulerConfig(max_batch=4, step_tokens=64)
        loop = SchedulerLoop(engine, Scheduler(config, NUM_BLOCKS, 4096, *beside))
        task = asyncio.create_task(loop.run())
        generations = [loop.submit(request) for request in requests]
        readers = asyncio.gather(*map(read, generations))
        if kill_after is not None:
            while loop.stats().counters.generation_tokens < kill_after:  # noqa: ASYNC110
                await asyncio.sleep(0)
            os.kill(engine.pid, signal.SIGKILL)
        if meanwhile is not None:
            await meanwhile(loop)
        await readers
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return generations

    return asyncio.run(main())


def is_spelt(generations: list[TokenStream]) -> bool:
    """Return whether all tokens are those that the oracle says."""
    sequences = [generation._sequence for generation in generations]
    return all(
        list(one.tokens) == spell(list(one.request.prompt), one.request.max_tokens) for one in sequences
    )


async def idle_until_replaced(engine: EngineProcess, break_it: Callable[[], None]) -> None:
    """Run a loop without requests; break the engine, and wait until another one is there."""
    loop = SchedulerLoop(engine, Scheduler(SchedulerConfig(), NUM_BLOCKS, 4096))
    task = asyncio.create_task(loop.run())
    await asyncio.sleep(0)
    break_it()
    while not loop.stats().counters.failed_steps:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert loop.stats().state == "ok"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
