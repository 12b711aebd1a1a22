"""The engine's process, the only one that runs a model. It answers messages from a socket, in their order.

    python -m pensieve.engine.worker SOCKET HEARTBEAT LOG_LEVEL

MLX wants one owner: a lazy array of one thread cannot be evaluated on another, and two threads that evaluate
one graph crash the process. MLX's owner is the main thread of this process: the server's Python does not keep
the model waiting, and the server survives the engine's death.
"""

import logging
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from .. import PensieveError
from .channel import Channel, ChannelClosed
from .compiling.user_folder import use_private_temporary_folder
from .heartbeat import show_life
from .logs import set_up_logging
from .step import StepPlan, StepsDone

if TYPE_CHECKING:  # MLX and mlx-lm are imported by the first message that needs them
    from .runner import Runner

logger = logging.getLogger(__name__)

Build = Callable[..., tuple["Runner", Any]]
"""Makes a runner, and a description of it for the other process."""


class Worker:
    """Carries out the other process's messages: each names a public method."""

    def __init__(self) -> None:
        self._runner: Runner | None = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function that needs MLX or the device; return its result."""
        return function(*arguments)

    def start(self, build: Build, *arguments: Any) -> Any:
        """Make the runner; return its description."""
        self._runner, description = build(*arguments)
        return description

    def step(self, plan: StepPlan) -> StepsDone:
        """See Runner.step."""
        assert self._runner is not None, "start() comes first"
        return self._runner.step(plan)

    def drain(self) -> StepsDone:
        """See Runner.drain."""
        assert self._runner is not None, "start() comes first"
        return self._runner.drain()

    def proceed(self) -> None:
        """See Runner.proceed."""
        if self._runner is not None:
            self._runner.proceed()


def serve(channel: Channel) -> None:
    """Answer messages `(method, *arguments)` with `(error, result)` until the other end is closed."""
    worker = Worker()
    while True:
        try:
            method, *arguments = channel.receive()
        except ChannelClosed:
            return
        try:
            channel.send(_answer(worker, method, arguments))
        except ChannelClosed:
            return
        worker.proceed()


def _answer(worker: Worker, method: str, arguments: list[Any]) -> tuple[Exception | None, Any]:
    try:
        return None, getattr(worker, method)(*arguments)
    except Exception as error:
        if not isinstance(error, PensieveError):
            logger.exception("%s failed", method)  # the traceback does not cross
        return (error if _can_cross(error) else RuntimeError(repr(error))), None


def _can_cross(error: Exception) -> bool:
    """Whether an exception can be pickled and unpickled: unpickling calls its class with `args`."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


def end_with_parent() -> None:
    """End the process as soon as the parent, which holds its standard input, has closed it or died."""
    sys.stdin.buffer.read()
    leave()


def leave() -> NoReturn:
    """End without the interpreter's shutdown, in which MLX's threads abort the process (0.32.4 on Linux)."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # a flush fails when the reader of the output has gone
        os._exit(0)


def main() -> NoReturn:
    """Serve a socket, whose file descriptor is the first argument.

    The second is that of a pipe for heartbeats, the third the level of the log.
    """
    set_up_logging(sys.argv[3])
    show_life(int(sys.argv[2]))
    # Signals go to both processes (systemd's stop, say). The parent handles them; this process ends with it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    use_private_temporary_folder()
    serve(Channel(socket.socket(fileno=int(sys.argv[1]))))
    leave()


if __name__ == "__main__":
    main()
