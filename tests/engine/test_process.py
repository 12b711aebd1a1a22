"""The engine's process: exact, replaced when it dies, and never left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import mlx_lm.utils
import pytest

from pensieve.engine import process
from pensieve.engine.attention.paged_model import probe
from pensieve.engine.loading.model_error import ModelError
from pensieve.engine.process import EngineProcess
from pensieve.engine.runner import Capacity, Runner
from pensieve.engine.step import DecodeRow, PrefillChunk, SamplingParams, StepFailed, StepPlan
from pensieve.scheduler.config import SchedulerConfig
from pensieve.scheduler.loop import SchedulerLoop
from pensieve.scheduler.scheduler import Scheduler
from pensieve.scheduler.sequence import Request
from pensieve.scheduler.token_stream import TokenStream

from ..budget import sampled
from ..models import build_random, write_model
from ..processes import wait_for_end
from .harness import Verdict
from .recurrent_models import build_recurrent, recurrent_model


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    with EngineProcess() as process:
        yield process


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[EngineProcess]:
    """A process without a runner, for tests that leave it as it was."""
    with EngineProcess() as process:
        yield process


def serve(
    engine: EngineProcess, requests: list[Request], kill_after: int | None = None, num_state_slots: int = 0
) -> list[TokenStream]:
    """Run requests together; kill the engine's process once so many tokens have come."""

    async def read(generation: TokenStream) -> None:
        async for _ in generation:
            pass

    async def main() -> list[TokenStream]:
        config = SchedulerConfig(max_batch=4, step_tokens=64)
        loop = SchedulerLoop(engine, Scheduler(config, 200, 4096, num_state_slots))
        task = asyncio.create_task(loop.run())
        generations = [loop.submit(request) for request in requests]
        readers = asyncio.gather(*map(read, generations))
        if kill_after is not None:
            while loop.stats().counters.generation_tokens < kill_after:  # noqa: ASYNC110
                await asyncio.sleep(0)
            os.kill(engine.pid, signal.SIGKILL)
        await readers
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return generations

    return asyncio.run(main())


def judge(folder: Path, generations: list[TokenStream]) -> tuple[int, int]:
    """Count tokens and those among them that plain mlx-lm would not have made."""
    model: Any = mlx_lm.utils.load_model(folder)[0]
    verdict = Verdict()
    for generation in generations:
        verdict.judge(model, generation._sequence)
    return verdict.tokens, verdict.wrong


def test_many_requests_through_the_process_are_exact(engine: EngineProcess, tmp_path: Path) -> None:
    engine.start(build_random, write_model(tmp_path), 200, True)
    requests = [Request([i] * (20 * i + 1), SamplingParams(), 10) for i in range(8)]
    assert judge(tmp_path, serve(engine, requests)) == (80, 0)


@pytest.mark.parametrize(
    ("on_host", "count"),
    sampled([(True, 1), (True, 6), (False, 1), (False, 6)], kept=[(False, 6)]),
)
def test_requests_outlive_the_process(
    engine: EngineProcess, tmp_path: Path, on_host: bool, count: int
) -> None:
    """MLX ends its process where Metal runs out of memory; the server must not go with it."""
    engine.start(build_random, write_model(tmp_path), 200, on_host)
    first = engine.pid
    requests = [Request([i] * (20 * i + 1), SamplingParams(), 60) for i in range(count)]
    generations = serve(engine, requests, kill_after=20)
    assert engine.pid != first
    assert judge(tmp_path, generations) == (60 * count, 0)


@pytest.mark.slow
def test_states_are_computed_anew_in_a_new_process(engine: EngineProcess) -> None:
    """Checkpoints in the prefix tree name states that have died with the process."""
    engine.start(build_recurrent, "lfm2", Capacity(200, 20), True)
    first, verdict = engine.pid, Verdict()
    requests = [Request(list(range(90)) + [i] * (20 * i + 1), SamplingParams(), 40) for i in range(4)]
    generations = serve(engine, requests, kill_after=20, num_state_slots=20)
    assert engine.pid != first
    model = recurrent_model("lfm2")
    for generation in generations:
        verdict.judge(model, generation._sequence)
    assert (verdict.tokens, verdict.wrong) == (160, 0)


def test_an_engine_that_dies_while_idle_is_replaced_at_once(engine: EngineProcess, tmp_path: Path) -> None:
    engine.start(build_random, write_model(tmp_path), 200, True)

    async def main() -> None:
        loop = SchedulerLoop(engine, Scheduler(SchedulerConfig(), 200, 4096))
        task = asyncio.create_task(loop.run())
        await asyncio.sleep(0)
        os.kill(engine.pid, signal.SIGKILL)
        while not loop.stats().counters.failed_steps:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    first = engine.pid
    asyncio.run(main())
    assert engine.pid != first
    assert judge(tmp_path, serve(engine, [Request([1, 2, 3], SamplingParams(), 10)])) == (10, 0)


def test_who_comes_after_an_idle_death_is_not_blamed(engine: EngineProcess, tmp_path: Path) -> None:
    engine.start(build_random, write_model(tmp_path), 200, True)
    os.kill(engine.pid, signal.SIGKILL)
    os.waitid(os.P_PID, engine.pid, os.WEXITED | os.WNOWAIT)
    assert judge(tmp_path, serve(engine, [Request([1, 2, 3], SamplingParams(), 10)])) == (10, 0)


@pytest.mark.slow
def test_a_hung_process_is_replaced(
    engine: EngineProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped one was waited for for ever, while /health said that all was well."""
    monkeypatch.setattr(process, "HUNG_S", 0.5)
    engine.start(build_random, write_model(tmp_path), 200, True)
    os.kill(engine.pid, signal.SIGSTOP)
    with pytest.raises(StepFailed, match="has ended: SIGKILL"):
        asyncio.run(engine.step(StepPlan(1)))
    monkeypatch.undo()
    assert judge(tmp_path, serve(engine, [Request([1, 2, 3], SamplingParams(), 10)])) == (10, 0)


def fail_to_build() -> NoReturn:
    raise ModelError("no such model")


def test_what_build_raises_reaches_the_caller(shared_engine: EngineProcess) -> None:
    with pytest.raises(ModelError, match="no such model"):
        shared_engine.start(fail_to_build)


def test_a_function_runs_in_the_process(shared_engine: EngineProcess) -> None:
    assert shared_engine.call(os.getpid) == shared_engine.pid != os.getpid()


def test_a_process_that_dies_while_it_loads_is_told_of(engine: EngineProcess) -> None:
    with pytest.raises(ModelError, match="has ended: status 3"):
        engine.call(os._exit, 3)


def build_once(count: Path, dies: bool) -> tuple[Runner, None]:
    """Build a runner the first time; end the process the next, or raise."""
    if count.exists() and dies:
        os._exit(4)
    if count.exists():
        raise ModelError("gone: status 4")
    count.touch()
    return build_random(write_model(count.parent / "model"), 20, True)


@pytest.mark.parametrize("dies", sampled([True, False], kept=[False]))
def test_a_process_that_cannot_be_replaced_fails_each_step(
    engine: EngineProcess, tmp_path: Path, dies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MAX_PAUSE_S", 0)
    engine.start(build_once, tmp_path / "count", dies)
    os.kill(engine.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(StepFailed, match=r"cannot be started anew: .* status 4"):
            asyncio.run(engine.step(StepPlan(1)))


class Odd(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def fail_oddly(*arguments: Any) -> NoReturn:
    raise Odd(*arguments) if len(arguments) == 2 else ValueError(lambda: None)


@pytest.mark.parametrize("arguments", [(1, 2), ()])
def test_an_error_that_cannot_be_pickled_is_told_of(
    shared_engine: EngineProcess, arguments: tuple[int, ...]
) -> None:
    with pytest.raises(RuntimeError, match=r"1 and 2|lambda"):
        shared_engine.call(fail_oddly, *arguments)
    assert shared_engine.call(os.getpid) == shared_engine.pid, "it lives on"


def build_slowly(count: Path) -> tuple[Runner, None]:
    """Build a runner the first time; take for ever the next."""
    if count.exists():
        time.sleep(60)
    count.touch()
    return build_random(write_model(count.parent / "model"), 20, True)


def test_a_restart_holds_up_neither_the_loop_nor_its_end(engine: EngineProcess, tmp_path: Path) -> None:
    """A large model loads for minutes; a server that is told to stop meanwhile must do so."""
    engine.start(build_slowly, tmp_path / "count")
    os.kill(engine.pid, signal.SIGKILL)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.step(StepPlan(1)), 1)

    started_s = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - started_s < 30


def test_a_signal_to_both_processes_is_the_parents_to_deal_with(shared_engine: EngineProcess) -> None:
    shared_engine.call(os.getpid)
    os.kill(shared_engine.pid, signal.SIGTERM)
    assert shared_engine.call(os.getpid) == shared_engine.pid


def test_a_failed_step_says_why(engine: EngineProcess, tmp_path: Path) -> None:
    engine.start(build_random, write_model(tmp_path), 20, True)
    beyond = StepPlan(1, [], [PrefillChunk(1, [1, 2, 3], 0, ((10_000, 10_003),))])
    with pytest.raises(StepFailed, match="bounds"):
        asyncio.run(engine.step(beyond))
    sound = StepPlan(2, [DecodeRow(1, 5, 0, ((0, 1),), SamplingParams())])
    result = asyncio.run(engine.step(sound))
    assert result is not None
    assert list(result.tokens) == [1]


def test_an_empty_plan_costs_nothing(tmp_path: Path) -> None:
    model: Any = mlx_lm.utils.load_model(write_model(tmp_path))[0]
    result = Runner(probe(model, 16), Capacity(20), on_host=True).step(StepPlan(1))
    assert result is not None
    assert result.tokens == {}


PARENT = """
import os, signal, time
from pensieve.engine.process import EngineProcess

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
engine = EngineProcess()
engine.call(os.getpid)
print(engine.pid, flush=True)
engine.call(time.sleep, 60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_process_never_outlives_its_parent(number: signal.Signals) -> None:
    """However the parent ends, and whatever the engine is doing."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    parent.send_signal(number)
    parent.wait(10)
    wait_for_end(pid)
