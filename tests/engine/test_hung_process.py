"""An engine's process that hangs: told of, dumped, replaced. Its watch is told that time has passed."""

import asyncio
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import NoReturn

import pytest

from pensieve.engine import process
from pensieve.engine.hang_watch import FIRST_STEP, SILENCE
from pensieve.engine.process import EngineProcess
from pensieve.engine.step import SamplingParams, StepFailed, StepPlan
from pensieve.scheduler.loop import SchedulerLoop
from pensieve.scheduler.sequence import Request

from .process_driver import NUM_BLOCKS, idle_until_replaced, is_spelt, serve
from .process_jobs import build_hanging


def let_time_pass(engine: EngineProcess, seconds: float, has_beaten: bool) -> None:
    """Tell the watch of so many seconds, which have not passed."""
    for _ in range(int(seconds)):
        engine._watch.look(1, has_beaten)


def test_a_step_without_end_is_told_of_dumped_and_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An endless kernel was waited for for two minutes; for half a minute /health said that all was well."""
    monkeypatch.setattr(process, "LOOK_S", 0.01)
    monkeypatch.setattr(process, "DUMP_S", 3600)  # the test itself kills the process, once it has the dump
    mark, log = tmp_path / "mark", ""
    states: list[str] = []

    async def hang(loop: SchedulerLoop) -> None:
        nonlocal log
        while not mark.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        states.append(loop.stats().state)
        let_time_pass(engine, FIRST_STEP.stalled_s, has_beaten=True)
        states.append(loop.stats().state)
        let_time_pass(engine, FIRST_STEP.hung_s, has_beaten=True)
        while "compute_for_ever" not in log or "_beat" not in log:
            await asyncio.sleep(0.01)
            log += capfd.readouterr().err
        states.append(loop.stats().state)
        os.kill(first, signal.SIGKILL)

    with EngineProcess() as engine:  # here, so that it writes to what is captured
        engine.start(build_hanging, mark, NUM_BLOCKS)
        first = engine.pid
        requests = [Request([i] * (20 * i + 1), SamplingParams(), 10) for i in range(6)]
        assert is_spelt(serve(engine, requests, meanwhile=hang))
        assert engine.pid != first
    assert states == ["ok", "stalled", "restarting"]


@pytest.mark.parametrize("is_idle", [True, False])
def test_a_stopped_process_is_replaced(
    is_idle: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stopped one was waited for for ever, while /health said that all was well."""
    monkeypatch.setattr(process, "LOOK_S", 0.01)
    monkeypatch.setattr(process, "DUMP_S", 0)
    with EngineProcess() as engine:
        engine.start(build_hanging, tmp_path / "mark", NUM_BLOCKS)
        first = engine.pid

        def stop() -> None:
            os.kill(first, signal.SIGSTOP)
            monkeypatch.setattr(engine._heartbeat, "has_beaten", lambda: False)  # one may be on its way
            let_time_pass(engine, SILENCE.stalled_s, has_beaten=False)
            assert engine.state == "stalled"
            let_time_pass(engine, SILENCE.hung_s, has_beaten=False)

        async def step() -> None:
            answer = asyncio.ensure_future(engine.step(StepPlan(3)))  # which it does not answer in any case
            await asyncio.sleep(0)
            stop()
            with pytest.raises(StepFailed, match="has ended: SIGKILL"):
                await answer

        asyncio.run(idle_until_replaced(engine, stop) if is_idle else step())
        assert engine.pid != first
        (tmp_path / "mark").touch()
        assert is_spelt(serve(engine, [Request([1, 2, 3], SamplingParams(), 10)]))
    assert "it has not moved for" in caplog.text


def test_a_process_that_hangs_and_cannot_be_killed_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that does not return keeps its socket open: the step waited for ever."""
    mark = tmp_path / "mark"
    for name, seconds in (("LOOK_S", 0.01), ("DUMP_S", 0)):
        monkeypatch.setattr(process, name, seconds)
    waiting: set[threading.Thread] = set()

    async def hang(engine: EngineProcess) -> None:
        answer = asyncio.ensure_future(engine.step(StepPlan(3)))
        while not mark.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        let_time_pass(engine, FIRST_STEP.hung_s, has_beaten=True)
        with pytest.raises(StepFailed, match="cannot be ended"):
            await answer

    def wait(seconds: float) -> NoReturn:
        waiting.add(threading.current_thread())
        raise subprocess.TimeoutExpired("", seconds)

    with EngineProcess() as engine:
        engine.start(build_hanging, mark, NUM_BLOCKS)
        stuck = engine._process
        with monkeypatch.context() as unkillable:
            unkillable.setattr(process, "END_S", 0)
            unkillable.setattr(stuck, "kill", lambda: None)
            unkillable.setattr(stuck, "wait", wait)
            asyncio.run(hang(engine))
        stuck.kill()
        stuck.wait()
        assert is_spelt(serve(engine, [Request([1, 2, 3], SamplingParams(), 10)]))
    assert waiting, "it was waited for"
    assert threading.main_thread() not in waiting, "the event loop went on"
