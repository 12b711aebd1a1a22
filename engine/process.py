"""The scheduler's side of the engine's process: starts it, sends it steps, and replaces it when it dies."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from .channel import Channel, ChannelClosed
from .loading.model_error import ModelError
from .step import EngineLost, StepFailed, StepPlan, StepResult

logger = logging.getLogger(__name__)

T = TypeVar("T")

END_S = 5
"""Seconds that a process has to end once it has closed its socket."""

HUNG_S = 120
"""Seconds without a step's result after which a process is taken for hung, and replaced.

A step has half a second's work, and what it compiles for the first time takes some seconds more.
"""

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
        """Start the process; it imports MLX while the caller goes on."""
        self._log_level = log_level
        self._pause_s = 0.0  # after the last failed start of a process in a row
        self._start_message: tuple[Any, ...] | None = None
        self._spawn()

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        python_path = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with theirs:
            self._process = subprocess.Popen(
                # -P: imports come from this process's sys.path, not from the working folder.
                [sys.executable, "-P", "-m", "pensieve.engine.worker", str(theirs.fileno()), self._log_level],
                env=MLX_SETTINGS | os.environ | {"PYTHONPATH": python_path},
                stdin=subprocess.PIPE,  # closed when this process ends; the engine's process then ends
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal is for this process alone
            )
        self._channel = Channel(ours)

    @property
    def pid(self) -> int:
        """The process's id, which changes when the process is replaced."""
        return self._process.pid

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a module's function in the process; return its result, or raise its exception."""
        result: T = self._request("call", function, *arguments)
        return result

    def start(self, build: Callable[..., tuple[Any, T]], *arguments: Any) -> T:
        """Have `build` make the runner in the process; return its description, or raise its exception.

        build: a module's function that returns the runner and a description of it that can be pickled. It is
        called again in the process that replaces a dead one.
        """
        description: T = self._request("start", build, *arguments)
        self._start_message = ("start", build, *arguments)
        return description

    def _request(self, *message: Any) -> Any:
        try:
            self._channel.send(message)
            return _result(self._channel.receive())
        except ChannelClosed as error:
            raise ModelError(self._end()) from error

    async def step(self, plan: StepPlan) -> StepResult | None:
        """See Engine.step."""
        return await self._request_step("step", plan)

    async def drain(self) -> StepResult | None:
        """See Engine.drain."""
        return await self._request_step("drain")

    async def lost(self) -> None:
        """See Engine.lost."""
        await self._channel.closed()

    async def _request_step(self, *message: Any) -> StepResult | None:
        """Ask for a result. Replace a process that has died (KV is lost) before StepFailed is raised."""
        was_gone = self._process.poll() is not None
        watch = asyncio.get_running_loop().call_later(HUNG_S, self._kill_hung)
        try:
            result: StepResult | None = _result(await self._channel.ask(message))
            return result
        except ChannelClosed:
            why = await asyncio.to_thread(self._end)
        finally:
            watch.cancel()
        logger.error("%s; it is started anew", why)
        replaced = False
        try:
            await self._restart()
            replaced = True
            logger.warning("the engine is back; everything is computed again")
            self._pause_s = 0.0
        except Exception as error:
            self.close()
            self._pause_s = min(2 * self._pause_s + 1, MAX_PAUSE_S)
            await asyncio.sleep(self._pause_s)
            why = f"the engine's process cannot be started anew: {error}"
            logger.error("%s", why)
        raise EngineLost(why, replaced) if was_gone else StepFailed(why)

    def _kill_hung(self) -> None:
        logger.error("the engine has computed one step for %d s: it is killed", HUNG_S)
        self._process.kill()  # the end of its socket ends the wait for the step

    async def _restart(self) -> None:
        """Replace a process that has ended. No thread waits for the load, so that this can be cancelled."""
        assert self._start_message is not None, "start() comes first"
        self.close()
        self._spawn()
        try:
            _result(await self._channel.ask(self._start_message))
        except ChannelClosed as error:
            raise ModelError(await asyncio.to_thread(self._end)) from error

    def _end(self) -> str:
        """Wait for the process, which has closed its socket, and kill it after END_S; return how it ended."""
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        return f"the engine's process has ended: {name}"

    def close(self) -> None:
        """End the process at once."""
        self._channel.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.kill()  # it holds nothing that must be saved
        self._process.wait()

    def __enter__(self) -> "EngineProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _result(answer: tuple[Exception | None, Any]) -> Any:
    error, result = answer
    if error is not None:
        raise error
    return result
