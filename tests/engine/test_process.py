"""The engine's process: exact, replaced when it dies, and never left behind."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx_lm.utils
import pytest
from mlx_lm.models.cache import make_prompt_cache

from pensieve.engine import process
from pensieve.engine.attention.paged_model import probe
from pensieve.engine.loading.model_error import ModelError
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.process import EngineProcess
from pensieve.engine.runner import Runner
from pensieve.engine.served_model import WindowPool
from pensieve.engine.step import DecodeRow, PrefillChunk, SamplingParams, StepFailed, StepPlan
from pensieve.scheduler.sequence import Request
from pensieve.scheduler.token_stream import TokenStream

from ..budget import sampled
from ..families.random_model import build_family, random_model
from ..models import WINDOW, build_random, write_model
from ..processes import wait_for_end
from .harness import Verdict
from .process_driver import NUM_BLOCKS, idle_until_replaced, is_spelt, serve
from .process_jobs import (
    build_once,
    build_oracle,
    build_slowly,
    fail_oddly,
    fail_to_build,
)


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    with EngineProcess() as process:
        yield process


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[EngineProcess]:
    """A process for tests that leave it as it was, or start their own runner in it."""
    with EngineProcess() as process:
        yield process


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def judge(folder: Path, generations: list[TokenStream]) -> tuple[int, int]:
    """Count tokens and those among them that plain mlx-lm would not have made."""
    model: Any = mlx_lm.utils.load_model(folder)[0]
    verdict = Verdict()
    for generation in generations:
        verdict.judge(model, generation._sequence)
    return verdict.tokens, verdict.wrong


def test_many_requests_through_the_process_are_exact(shared_engine: EngineProcess, model: Path) -> None:
    shared_engine.start(build_random, model, NUM_BLOCKS, True)
    requests = [Request([i] * (20 * i + 1), SamplingParams(), 10) for i in range(8)]
    assert judge(model, serve(shared_engine, requests)) == (80, 0)


@pytest.mark.parametrize(
    ("on_host", "count"),
    sampled([(True, 1), (True, 6), (False, 1), (False, 6)], kept=[(False, 6)]),
)
def test_requests_outlive_the_process(
    shared_engine: EngineProcess, model: Path, on_host: bool, count: int
) -> None:
    """MLX ends its process where Metal runs out of memory; the server must not go with it."""
    shared_engine.start(build_random, model, NUM_BLOCKS, on_host)
    first = shared_engine.pid
    requests = [Request([i] * (20 * i + 1), SamplingParams(), 60) for i in range(count)]
    generations = serve(shared_engine, requests, kill_after=20)
    assert shared_engine.pid != first
    assert judge(model, generations) == (60 * count, 0)


@pytest.mark.slow
def test_states_and_windows_are_computed_anew_in_a_new_process(engine: EngineProcess) -> None:
    """Checkpoints in the prefix tree name states and blocks that have died with the process."""
    window = WindowPool(WINDOW, num_blocks=60, slice_tokens=64, max_running=4)
    engine.start(build_family, "gear", Capacity(NUM_BLOCKS, 20, window.num_blocks))
    first, model, verdict, head = engine.pid, random_model("gear"), Verdict(), list(range(90))
    requests = [Request(head + [i] * (20 * i + 1), SamplingParams(), 40, checkpoints=(80,)) for i in range(4)]
    generations = serve(engine, requests, kill_after=20, beside=(20, window))
    assert engine.pid != first
    for generation in generations:
        verdict.judge(model, generation._sequence, make_prompt_cache(model))
    assert (verdict.tokens, verdict.wrong) == (160, 0)


def test_an_engine_that_dies_while_idle_is_replaced_at_once(engine: EngineProcess) -> None:
    engine.start(build_oracle, NUM_BLOCKS)
    first = engine.pid
    asyncio.run(idle_until_replaced(engine, lambda: os.kill(engine.pid, signal.SIGKILL)))
    assert engine.pid != first
    assert is_spelt(serve(engine, [Request([1, 2, 3], SamplingParams(), 10)]))


def test_who_comes_after_an_idle_death_is_not_blamed(engine: EngineProcess) -> None:
    engine.start(build_oracle, NUM_BLOCKS)
    os.kill(engine.pid, signal.SIGKILL)
    os.waitid(os.P_PID, engine.pid, os.WEXITED | os.WNOWAIT)
    assert is_spelt(serve(engine, [Request([1, 2, 3], SamplingParams(), 10)]))


def test_what_build_raises_reaches_the_caller(shared_engine: EngineProcess) -> None:
    with pytest.raises(ModelError, match="no such model"):
        shared_engine.start(fail_to_build)


def test_a_function_runs_in_the_process(shared_engine: EngineProcess) -> None:
    assert shared_engine.call(os.getpid) == shared_engine.pid != os.getpid()


def test_a_process_that_dies_while_it_loads_is_told_of(engine: EngineProcess) -> None:
    with pytest.raises(ModelError, match="has ended: status 3"):
        engine.call(os._exit, 3)


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


@pytest.mark.parametrize("arguments", [(1, 2), ()])
def test_an_error_that_cannot_be_pickled_is_told_of(
    shared_engine: EngineProcess, arguments: tuple[int, ...]
) -> None:
    with pytest.raises(RuntimeError, match=r"1 and 2|lambda"):
        shared_engine.call(fail_oddly, *arguments)
    assert shared_engine.call(os.getpid) == shared_engine.pid, "it lives on"


def test_a_restart_holds_up_neither_the_loop_nor_its_end(engine: EngineProcess, tmp_path: Path) -> None:
    """A large model loads for minutes; a server that is told to stop meanwhile must do so."""
    engine.start(build_slowly, tmp_path / "count")
    first = engine.pid
    os.kill(engine.pid, signal.SIGKILL)

    async def main() -> None:
        step = asyncio.ensure_future(engine.step(StepPlan(1)))
        while engine.pid == first:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step

    asyncio.run(main())


def test_a_process_that_hangs_while_it_starts_is_given_up(
    engine: EngineProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server said that it was starting its engine anew, for ever."""
    monkeypatch.setattr(process, "MAX_PAUSE_S", 0)
    for name in ("MIN_START_S", "START_FACTOR"):
        monkeypatch.setattr(process, name, 0)
    engine.start(build_slowly, tmp_path / "count")
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(StepFailed, match="cannot be started anew: it has not started within 0 s"):
        asyncio.run(engine.step(StepPlan(1)))


def test_a_process_that_cannot_be_killed_is_left_behind(
    engine: EngineProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that does not return keeps a process, and its end was waited for without a bound."""
    monkeypatch.setattr(process, "END_S", 0)
    with monkeypatch.context() as unkillable:
        unkillable.setattr(engine._process, "kill", lambda: None)
        unkillable.setattr(engine._process, "poll", lambda: None)
        unkillable.setattr(engine._process, "wait", expire)
        engine.close()
    engine._process.kill()
    engine._process.wait()


def expire(timeout_s: float) -> int:
    raise subprocess.TimeoutExpired("", timeout_s)


def test_a_signal_to_both_processes_is_the_parents_to_deal_with(shared_engine: EngineProcess) -> None:
    shared_engine.call(os.getpid)
    os.kill(shared_engine.pid, signal.SIGTERM)
    assert shared_engine.call(os.getpid) == shared_engine.pid


def test_a_failed_step_says_why(shared_engine: EngineProcess, model: Path) -> None:
    engine = shared_engine
    engine.start(build_random, model, 20, True)
    beyond = StepPlan(1, [], [PrefillChunk(1, [1, 2, 3], 0, ((10_000, 10_003),))])
    with pytest.raises(StepFailed, match="bounds"):
        asyncio.run(engine.step(beyond))
    sound = StepPlan(2, [DecodeRow(1, 5, 0, ((0, 1),), SamplingParams())])
    (result,) = asyncio.run(engine.step(sound)).results
    assert list(result.tokens) == [1]


def test_an_empty_plan_costs_nothing(model: Path) -> None:
    loaded: Any = mlx_lm.utils.load_model(model)[0]
    (result,) = Runner(probe(loaded, 16), Capacity(20), on_host=True).step(StepPlan(1)).results
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
