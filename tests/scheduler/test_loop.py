import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager

import pytest

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.engine.hang_watch import EngineState
from pensieve.engine.step import EngineLost, SamplingParams, StepPlan, StepsDone
from pensieve.scheduler.config import SchedulerConfig
from pensieve.scheduler.exceptions import (
    EngineDown,
    EngineFailed,
    PromptTooLong,
    QueueFull,
    Stopping,
)
from pensieve.scheduler.loop import MAX_FAILURES, SchedulerLoop
from pensieve.scheduler.queue_forecast import FIRST_GUESS_S
from pensieve.scheduler.scheduler import Scheduler
from pensieve.scheduler.sequence import Request
from pensieve.scheduler.token_stream import TokenStream

from .oracle import OracleRunner, spell

NUM_BLOCKS = 64
NUM_STATE_SLOTS = 14


class OracleEngine:
    """An OracleRunner with the asyncio interface of an engine; every step takes a turn of the event loop."""

    state: EngineState = "ok"

    def __init__(self, lag: int, breaks: Callable[[StepPlan], bool]) -> None:
        self.runner = OracleRunner(NUM_BLOCKS * BLOCK_SIZE, lag, breaks, NUM_STATE_SLOTS)

    async def step(self, plan: StepPlan) -> StepsDone:
        await asyncio.sleep(0)
        return self.runner.step(plan)

    async def lost(self) -> None:
        await asyncio.Event().wait()

    async def drain(self) -> StepsDone:
        await asyncio.sleep(0)
        return self.runner.drain()


@asynccontextmanager
async def running(
    lag: int = 0, breaks: Callable[[StepPlan], bool] = lambda _: False, max_waiting: int = 100
) -> AsyncIterator[SchedulerLoop]:
    config = SchedulerConfig(max_batch=4, step_tokens=64, max_waiting=max_waiting)
    loop = SchedulerLoop(OracleEngine(lag, breaks), Scheduler(config, NUM_BLOCKS, 10_000, NUM_STATE_SLOTS))
    task = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def request(prompt: list[int], max_tokens: int = 10) -> Request:
    return Request(prompt, SamplingParams(), max_tokens)


async def collect(token_stream: TokenStream) -> list[int]:
    return [token async for tokens in token_stream for token in tokens]


@pytest.mark.parametrize("lag", [0, 1])
def test_many_requests_each_get_their_own_tokens(lag: int) -> None:
    async def main() -> None:
        async with running(lag) as loop:
            prompts = [[i, i + 1] * (10 * i + 1) for i in range(12)]
            answers = await asyncio.gather(*(collect(loop.submit(request(prompt))) for prompt in prompts))
            assert [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)] == [
                spell(prompt, 10) for prompt in prompts
            ]
            stats = loop.stats()
            assert (stats.num_running, stats.num_waiting, stats.blocks_held) == (0, 0, 0)
            assert stats.counters.generation_tokens == 120

    asyncio.run(main())


def test_a_cancelled_request_ends_within_one_step() -> None:
    async def main() -> None:
        async with running(lag=1) as loop:
            token_stream = loop.submit(request([1], max_tokens=10_000))
            await anext(token_stream)
            token_stream.cancel()
            assert loop.stats().blocks_held == 0
            await collect(token_stream)
            assert token_stream.finish_reason == "abort"
            token_stream.cancel()
            assert len(await collect(loop.submit(request([2])))) == 10

    asyncio.run(main())


def test_a_reader_learns_what_was_cached_and_when() -> None:
    async def main() -> None:
        async with running() as loop:
            first = loop.submit(request([7] * 200))
            assert first.num_cached_tokens == 0
            await collect(first)
            second = loop.submit(request([7] * 200))
            assert second.num_cached_tokens == 6 * BLOCK_SIZE
            await collect(second)
            assert second.num_cached_tokens == 6 * BLOCK_SIZE
            assert second.admitted_s is not None
            assert second.first_token_s is not None
            assert second.arrival_s <= second.admitted_s <= second.first_token_s

    asyncio.run(main())


def test_the_snapshot_says_when_the_last_request_of_the_queue_will_begin() -> None:
    async def main() -> None:
        async with running() as loop:
            streams = [loop.submit(request([i])) for i in range(6)]
            assert loop.stats().queue_forecast_s == 6 * FIRST_GUESS_S
            await asyncio.gather(*map(collect, streams))
            assert loop.stats().queue_forecast_s == 0

    asyncio.run(main())


def test_a_prompt_that_can_never_fit_is_refused_at_once() -> None:
    async def main() -> None:
        async with running() as loop:
            limit = NUM_BLOCKS * BLOCK_SIZE
            with pytest.raises(PromptTooLong, match=f"{limit} tokens > {limit - 1} maximum"):
                loop.submit(request([1] * limit))
            assert len(await collect(loop.submit(request([1] * (limit - 1))))) == 1

    asyncio.run(main())


def test_a_token_stream_says_how_far_it_is_from_its_first_token() -> None:
    async def main() -> None:
        async with running() as loop:
            streams = [loop.submit(request([i] * 200)) for i in range(6)]
            for ahead, token_stream in enumerate(streams):
                assert token_stream.outlook == (ahead, 0, 200, None)
            while streams[0].first_token_s is None:
                last, first = streams[5].outlook, streams[0].outlook
                await asyncio.sleep(0)
            assert first is not None
            assert last is not None
            assert (first.num_ahead, last.num_ahead) == (None, 1)
            assert 0 < first.num_computed < 200 == first.num_prompt_tokens
            assert first.seconds is not None
            assert last.seconds is not None
            await asyncio.gather(*map(collect, streams))
            assert {token_stream.outlook for token_stream in streams} == {None}

    asyncio.run(main())


def test_a_request_that_is_being_prepared_holds_its_place() -> None:
    async def main() -> None:
        async with running(max_waiting=1) as loop:
            with ExitStack() as places:
                for _ in range(1 + 4):
                    places.enter_context(loop.place())
                with pytest.raises(QueueFull), loop.place():
                    pass
                assert loop.is_full(0)
            assert [loop.is_full(num_more) for num_more in (4, 5)] == [False, True]
            with loop.place():
                assert len(await collect(loop.submit(request([1])))) == 10

    asyncio.run(main())


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async def main() -> None:
        async with running(max_waiting=3) as loop:
            accepted = [loop.submit(request([i])) for i in range(3 + 4)]  # four of them run at once
            with pytest.raises(QueueFull) as refused:
                loop.submit(request([9]))
            assert refused.value.retry_after_s > 0
            assert all([len(await collect(token_stream)) == 10 for token_stream in accepted])

    asyncio.run(main())


def test_an_engine_that_fails_for_ever_is_given_up_and_everyone_is_told() -> None:
    async def main() -> None:
        async with running(breaks=lambda _: True) as loop:
            token_streams = [loop.submit(request([i, i])) for i in range(6)]
            for token_stream in token_streams:
                with pytest.raises((EngineFailed, EngineDown)):
                    await collect(token_stream)
            assert "scripted" in (loop.stats().engine_error or "")
            with pytest.raises(EngineDown):
                loop.submit(request([1]))

    asyncio.run(main())


def test_an_engine_may_die_in_idleness_as_often_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five such deaths, each replaced well, ended the server."""
    num_deaths = 0

    async def lost(_: OracleEngine) -> None:
        if num_deaths == 2 * MAX_FAILURES:
            await asyncio.Event().wait()

    async def drain(engine: OracleEngine) -> StepsDone:
        nonlocal num_deaths
        if engine.runner.drain().results:
            raise AssertionError("it was idle")
        num_deaths += 1
        raise EngineLost("it has ended", replaced=True)

    monkeypatch.setattr(OracleEngine, "lost", lost)
    monkeypatch.setattr(OracleEngine, "drain", drain)

    async def main() -> None:
        async with running() as loop:
            while num_deaths < 2 * MAX_FAILURES:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert loop.stats().engine_error is None
            assert await collect(loop.submit(request([1, 2]))) == spell([1, 2], 10)[2:]

    asyncio.run(main())


def test_an_answer_that_fails_is_forgotten_without_a_garbage_collection() -> None:
    """Its exception and its stream kept each other, prompt and all; a busy server collects no garbage."""

    async def main() -> weakref.ref[TokenStream]:
        async with running(breaks=lambda _: True) as loop:
            token_stream = loop.submit(request([1, 1]))
            with pytest.raises((EngineFailed, EngineDown)):
                await collect(token_stream)
            return weakref.ref(token_stream)

    gc.disable()
    try:
        assert asyncio.run(main())() is None
    finally:
        gc.enable()


def test_a_single_failure_is_survived() -> None:
    async def main() -> None:
        async with running(breaks=lambda plan: plan.step_id == 5) as loop:
            token_streams = [loop.submit(request([i, i, i], max_tokens=20)) for i in range(4)]
            answers = await asyncio.gather(*(collect(token_stream) for token_stream in token_streams))
            assert answers == [spell([i, i, i], 20)[3:] for i in range(4)]
            assert loop.stats().engine_error is None

    asyncio.run(main())


def test_stopping_the_loop_ends_every_request_with_an_error() -> None:
    async def main() -> None:
        async with running() as loop:
            token_stream = loop.submit(request([1], max_tokens=100_000))
            await anext(token_stream)
        with pytest.raises(Stopping):
            await collect(token_stream)

    asyncio.run(main())


def test_disconnects_at_random_points_leave_nothing_behind() -> None:
    async def main() -> None:
        async with running(lag=1) as loop:

            async def leave_after(turns: int, prompt: list[int]) -> None:
                token_stream = loop.submit(request(prompt, max_tokens=50))
                for _ in range(turns):
                    await asyncio.sleep(0)
                token_stream.cancel()

            for i in range(200):
                await asyncio.gather(
                    *(leave_after((7 * i + j) % 23, [i, j] * (i % 50 + 1)) for j in range(3))
                )
            stats = loop.stats()
            assert (stats.num_running, stats.num_waiting, stats.blocks_held) == (0, 0, 0)
            assert stats.blocks_free + stats.blocks_cached == NUM_BLOCKS
            assert (stats.states_total, stats.states_held) == (NUM_STATE_SLOTS, 0)
            assert stats.states_free + stats.states_cached == NUM_STATE_SLOTS

    asyncio.run(main())
