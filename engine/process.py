"""The scheduler's side of the engine's process: starts it, sends it steps, and replaces it when it dies."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from .channel import Channel, ChannelClosed
from .hang_watch import LOOK_S, EngineState, HangWatch
from .heartbeat import DUMP_SIGNAL, Heartbeat
from .loading.model_error import ModelError
from .ranks.rank_link import LOST_STATUS
from .step import EngineLost, StepFailed, StepPlan, StepsDone

logger = logging.getLogger(__name__)

T = TypeVar("T")

END_S = 5
"""Seconds that a process has to end once it has closed its socket."""

DUMP_S = 1
"""Seconds that a hung process has to write where it stands, before it is killed."""

MIN_START_S, START_FACTOR = 120.0, 4.0
"""Seconds that a process has to start in place of another, at least; how many times as long as the first."""

ENDINGS = {LOST_STATUS: "a rank is lost", -signal.SIGALRM: "not all ranks have come in time"}
"""What a status of the process means for the user, where it is one of ranks/."""

MAX_PAUSE_S = 15
"""Longest pause after a start that has failed: what a moment lacks, such as memory, may come back."""

MLX_SETTINGS = {"MLX_ENABLE_CACHE_THRASHING_CHECK": "0"}
"""MLX's settings in the environment of the process, where the user has not set them.

On CUDA, MLX keeps graphs, and plans for convolutions and for attention. By default it raises an error once it
has made twice as many as it keeps, in the whole life of the process; a server lives long enough for that.
"""

BUFFER_BYTES = 2**20
"""Size of the socket's buffers. A plan with masks has hundreds of kilobytes, a buffer of macOS only 8."""


class EngineProcess:
    """The scheduler's `Engine`: its Runner is in another process. A context manager."""

    def __init__(self, log_level: str = "warning") -> None:
        """Start the process; it imports MLX when the first message needs it."""
        self._log_level = log_level
        self._watch = HangWatch()
        self._looks: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None
        self._pause_s = 0.0  # after the last failed start of a process in a row
        self._start_message: tuple[Any, ...] | None = None
        self._first_start_s = 0.0
        self._spawn()

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        self._heartbeat = Heartbeat()
        ends = (theirs.fileno(), self._heartbeat.sender)
        python_path = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with theirs:
            self._process = subprocess.Popen(
                # -P: imports come from this process's sys.path, not from the working folder.
                [sys.executable, "-P", "-m", "pensieve.engine.worker", *map(str, ends), self._log_level],
                env=MLX_SETTINGS | os.environ | {"PYTHONPATH": python_path},
                stdin=subprocess.PIPE,  # closed when this process ends; the engine's process then ends
                pass_fds=ends,
                start_new_session=True,  # Ctrl-C in the terminal is for this process alone
            )
        os.close(self._heartbeat.sender)
        self._channel = Channel(ours)

    @property
    def pid(self) -> int:
        """The process's id, which changes when the process is replaced."""
        return self._process.pid

    @property
    def state(self) -> EngineState:
        """See Engine.state."""
        return self._watch.state

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a module's function in the process; return its result, or raise its exception."""
        result: T = self._request("call", function, *arguments)
        return result

    def start(self, build: Callable[..., tuple[Any, T]], *arguments: Any) -> T:
        """Have `build` make the runner in the process; return its description, or raise its exception.

        build: a module's function that returns the runner and a description of it that can be pickled. It is
        called again in the process that replaces a dead one.
        """
        begun_s = time.monotonic()
        description: T = self._request("start", build, *arguments)
        self._first_start_s = time.monotonic() - begun_s
        self._start_message = ("start", build, *arguments)
        return description

    def _request(self, *message: Any) -> Any:
        try:
            self._channel.send(message)
            return _result(self._channel.receive())
        except ChannelClosed as error:
            raise ModelError(self._end()) from error

    async def step(self, plan: StepPlan) -> StepsDone:
        """See Engine.step."""
        return await self._request_step(plan.expected_s, "step", plan)

    async def drain(self) -> StepsDone:
        """See Engine.drain."""
        return await self._request_step(0.0, "drain")

    async def lost(self) -> None:
        """See Engine.lost."""
        self._keep_looking()
        await self._channel.closed()

    async def _request_step(self, expected_s: float | None, *message: Any) -> StepsDone:
        """Ask for results. Replace a process that has died (KV is lost) before StepFailed is raised.

        expected_s: see StepPlan.expected_s.
        """
        was_gone = self._process.poll() is not None
        self._keep_looking()
        self._watch.begin(expected_s)
        is_computed = False
        try:
            result: StepsDone = _result(await self._channel.ask(message))
            is_computed = True
            return result
        except ChannelClosed:
            self._watch.restart()
            why = await asyncio.to_thread(self._end)
        finally:
            self._watch.end(is_computed)
        logger.error("%s; it is started anew", why)
        replaced = False
        try:
            await self._restart()
            self._watch.restarted()
            replaced = True
            logger.warning("the engine is back; everything is computed again")
            self._pause_s = 0.0
        except Exception as error:
            self._let_go()
            await asyncio.to_thread(self._wait_killed)
            self._pause_s = min(2 * self._pause_s + 1, MAX_PAUSE_S)
            await asyncio.sleep(self._pause_s)
            why = f"the engine's process cannot be started anew: {error}"
            logger.error("%s", why)
        raise EngineLost(why, replaced) if was_gone else StepFailed(why)

    def _keep_looking(self) -> None:
        """Look at the process again and again on this event loop, until it is closed."""
        loop = asyncio.get_running_loop()
        if self._looks is None or self._looks[0] is not loop:
            self._looked_s = time.monotonic()
            self._looks = loop, loop.call_later(LOOK_S, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        self._watch.look(now - self._looked_s, self._heartbeat.has_beaten())
        self._looked_s = now
        if self._watch.hang is not None:
            self._end_hung(loop, self._watch.hang)
        self._looks = loop, loop.call_later(LOOK_S, self._look, loop)

    def _end_hung(self, loop: asyncio.AbstractEventLoop, why: str) -> None:
        """Have a hung process write where it stands, then kill it: its closed socket leads to a new one.

        A process that a driver holds although it is killed closes nothing, so that this end is shut.
        """
        logger.error("the engine hangs: %s; it is killed. Where it stood:", why)
        self._watch.restart(is_hung=True)
        # A process that is stopped takes the signal when it continues.
        for number in (DUMP_SIGNAL, signal.SIGCONT):
            self._process.send_signal(number)
        loop.call_later(DUMP_S, self._process.kill)
        loop.call_later(DUMP_S + END_S, self._channel.shut)

    async def _restart(self) -> None:
        """Replace a process that has ended. No thread waits for the load, so that this can be cancelled.

        Raises ModelError where the new one ends, or does not answer in time: it may hang, as the old one did.
        """
        assert self._start_message is not None, "start() comes first"
        self._let_go()
        await asyncio.to_thread(self._wait_killed)
        self._spawn()
        try:
            limit_s = max(MIN_START_S, START_FACTOR * self._first_start_s)
            _result(await asyncio.wait_for(self._channel.ask(self._start_message), limit_s))
        except TimeoutError as error:
            raise ModelError(f"it has not started within {limit_s:.0f} s") from error
        except ChannelClosed as error:
            raise ModelError(await asyncio.to_thread(self._end)) from error

    def _end(self) -> str:
        """Wait for the process, which has closed its socket, and kill it after END_S; return how it ended."""
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            killed = self._wait_killed()
            if killed is None:
                return "the engine's process cannot be ended"
            code = killed
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        return f"the engine's process has ended: {ENDINGS.get(code, name)}"

    def close(self) -> None:
        """End the process at once."""
        self._let_go()
        self._wait_killed()

    def _let_go(self) -> None:
        """Kill the process, and close what leads to it."""
        if self._looks is not None:
            self._looks[1].cancel()
            self._looks = None
        self._channel.close()
        self._heartbeat.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.kill()  # it holds nothing that must be saved

    def _wait_killed(self) -> int | None:
        """Wait END_S for the process, which is killed; return its status, or None where it has not ended.

        A driver that does not return keeps it. Whether a new process finds the device is seen at its start.
        """
        try:
            return self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            logger.error("the engine's process %d cannot be ended: the device's driver holds it", self.pid)
            return None

    def __enter__(self) -> "EngineProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _result(answer: tuple[Exception | None, Any]) -> Any:
    error, result = answer
    if error is not None:
        raise error
    return result
