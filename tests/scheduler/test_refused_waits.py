"""Who waits too long, and who comes when the server stops."""

import asyncio

import pytest

from pensieve.scheduler.config import SchedulerConfig
from pensieve.scheduler.exceptions import Stopping, WaitedTooLong
from pensieve.scheduler.loop import SchedulerLoop
from pensieve.scheduler.scheduler import Scheduler

from .oracle import spell
from .test_loop import NUM_BLOCKS, OracleEngine, collect, request, running


def test_who_has_waited_too_long_is_told_and_who_has_been_admitted_is_not() -> None:
    async def main() -> None:
        config = SchedulerConfig(max_batch=4, step_tokens=64)
        loop = SchedulerLoop(OracleEngine(0, lambda _: False), Scheduler(config, NUM_BLOCKS, 10_000, 14))
        late, other = (loop.submit(request([i])) for i in range(2))  # nothing runs yet
        late.limit_wait(0)
        with pytest.raises(WaitedTooLong, match="max-wait-s"):
            await collect(late)
        assert loop.stats().num_waiting == 1
        task = asyncio.create_task(loop.run())
        await anext(other)
        assert other._deadline is None
        other.cancel()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_a_loop_that_is_to_stop_takes_no_request_and_ends_those_it_has() -> None:
    async def main() -> None:
        async with running() as loop:
            taken = loop.submit(request([1]))
            loop.refuse_new()
            with pytest.raises(Stopping):
                loop.submit(request([2]))
            assert loop.stats().state == "stopping"
            assert await collect(taken) == spell([1], 10)[1:]

    asyncio.run(main())
