"""`pensieve serve`: finds the model, plans the memory, starts the engine and runs the HTTP server."""

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass, replace
from typing import Any

import uvicorn

from .. import PensieveError, __version__
from ..engine import SYSTEM_BLAS
from ..engine.blas import describe_blas
from ..engine.config import EngineConfig
from ..engine.hub import resolve
from ..engine.loader import compute_dtype, inspect, load
from ..engine.memory import Device, bound_buffer_cache, find_device, make_plan
from ..engine.model_info import ModelInfo
from ..engine.paged import probe
from ..engine.runner import Runner
from ..engine.selfcheck import disagreement, usable_kernels
from ..engine.thread import EngineThread
from ..engine.weights import ModelError
from ..scheduler.config import SchedulerConfig
from ..scheduler.loop import SchedulerLoop
from .app import create_app
from .config import ServerConfig
from .plan import ServedModel, describe_calls, describe_client, describe_plan

# How long answers may go on after SIGTERM or SIGINT; then they are ended with an error event.
GRACE_S = 3
CUT_S = GRACE_S + 2  # connections that are still open then are closed


@dataclass(frozen=True, slots=True)
class Started:
    """What the engine's thread has loaded, as far as others may touch it."""

    model: ServedModel
    tokenizer: Any  # mlx_lm's TokenizerWrapper


class ListenError(PensieveError):
    """The address or port cannot be had."""


class EngineError(PensieveError):
    """The engine failed for good while it served."""


class Server(uvicorn.Server):
    """uvicorn with the scheduler's task beside it: begun before and ended with the answers."""

    def __init__(self, config: uvicorn.Config, scheduler: SchedulerLoop, greeting: str) -> None:
        super().__init__(config)
        self.scheduler = scheduler
        self.greeting = greeting
        self.engine_failed = False
        self._task: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the scheduler, then as uvicorn does; then greet."""
        self._task = asyncio.create_task(self.scheduler.run())
        self._task.add_done_callback(self._scheduler_ended)
        await super().startup(sockets)
        if self.started:
            say(self.greeting)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers end within the grace period; the scheduler gives the others an error to send."""
        assert self._task is not None
        asyncio.get_running_loop().call_later(GRACE_S, self._task.cancel)
        await super().shutdown(sockets)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _scheduler_ended(self, task: asyncio.Task[None]) -> None:
        # A server without an engine helps nobody: end it, so that whoever watches it starts a new one.
        if not task.cancelled():
            self.engine_failed = True
            self.should_exit = True


def say(text: str) -> None:
    """Show the user a line now, also when the output is a pipe."""
    print(text, flush=True)


def serve(
    engine_config: EngineConfig, server_config: ServerConfig, scheduler_config: SchedulerConfig
) -> None:
    """Serve until SIGTERM or SIGINT. Raises PensieveError, one line, when that cannot begin."""
    set_up_logging(server_config.log_level)
    with bind(server_config) as listener:
        say(f"pensieve {__version__}")
        path = resolve(engine_config.model, say)
        info = inspect(path, engine_config.model.rstrip("/"), compute_dtype(), engine_config.kv_bits)
        device = find_device()
        say(
            describe_plan(
                ServedModel(info, make_plan(info, engine_config, device)), describe_blas(SYSTEM_BLAS)
            )
        )
        engine = EngineThread()
        started = start_engine(engine, info, engine_config, device)
        say(f"attends  with {started.model.attention}")
        try:
            run_server(build_server(server_config, scheduler_config, engine, started, listener), listener)
        finally:
            engine.close()


def bind(config: ServerConfig) -> socket.socket:
    """Take the port before the long work of loading; it is listened on when the server is ready."""
    try:
        families = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
        # `localhost` may name both; the URL that is printed has the address of version 4.
        family, kind, protocol, _, address = min(families, key=lambda entry: entry[0] != socket.AF_INET)
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise _listen_error(error, config) from error
    return listener


def _listen_error(error: OSError, config: ServerConfig) -> ListenError:
    if error.errno == errno.EADDRINUSE:
        return ListenError(f"port {config.port} is taken: stop what uses it or give another --port")
    if error.errno == errno.EACCES:
        return ListenError(f"port {config.port} needs special rights: give a --port above 1023")
    return ListenError(f"cannot listen on {config.host}: {error.strerror}")


def start_engine(engine: EngineThread, info: ModelInfo, config: EngineConfig, device: Device) -> Started:
    """Load the model on the engine's thread. Raises ModelError."""
    started: list[Started] = []

    def build() -> Runner:
        bound_buffer_cache()
        loaded = load(info)
        model = ServedModel(loaded.info, make_plan(loaded.info, config, device))
        runner = build_runner(loaded.model, model)
        started.append(Started(replace(model, attention=runner.backend), loaded.tokenizer))
        return runner

    try:
        engine.start(build)
    except KeyboardInterrupt:
        # The thread is inside MLX and cannot be stopped; ending the interpreter under it would abort.
        print("pensieve: interrupted", file=sys.stderr, flush=True)
        os._exit(128 + signal.SIGINT)
    except BaseException:
        engine.close()
        raise
    return started[0]


def build_runner(model: Any, served: ServedModel) -> Runner:
    """Check paged attention against mlx-lm's own on this model and device, then allocate the KV pools."""
    on_host, kv_bits = served.memory.device.kind == "cpu", served.info.kv_bits
    try:
        distance = disagreement(model, served.vocab_size, on_host, kv_bits=kv_bits)
    except (NotImplementedError, ValueError) as error:
        raise ModelError(f"{served.name} needs {error}; not supported yet") from error
    if not distance <= 1:  # not >: NaN must fail
        raise ModelError(f"{served.name} computes wrongly on paged KV; not supported yet")
    kernels = None if on_host else usable_kernels(model, served.vocab_size, kv_bits)
    return Runner(model, served.memory.num_blocks, on_host, kernels, probe(model, kv_bits))


def build_server(
    config: ServerConfig,
    scheduler_config: SchedulerConfig,
    engine: EngineThread,
    started: Started,
    listener: socket.socket,
) -> Server:
    """Put scheduler, app and HTTP server together."""
    port = listener.getsockname()[1]
    model = started.model
    scheduler = SchedulerLoop(engine, scheduler_config, model.memory.num_blocks, model.max_context)
    app = create_app(replace(config, port=port), model, started.tokenizer, scheduler)
    say(describe_calls(app.state.rule_book))
    debug = config.log_level == "debug"
    uvicorn_config = uvicorn.Config(
        app,
        http="h11",  # httptools takes requests that could be read in two ways
        log_config=None,
        log_level="debug" if debug else "warning",
        access_log=debug,
        server_header=False,
        timeout_graceful_shutdown=CUT_S,
    )
    return Server(uvicorn_config, scheduler, describe_client(model, config, port))


def run_server(server: Server, listener: socket.socket) -> None:
    """Run until a signal. Raises PensieveError when the port or the engine is lost."""
    # uvicorn raises the signal anew when it is done, which would end the process before the engine's thread.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        # Two servers may take one port until the first listens, and uvloop does not say when that failed.
        listener.listen(server.config.backlog)
    except OSError as error:
        port = listener.getsockname()[1]
        raise ListenError(f"port {port} cannot be listened on: {error.strerror}") from error
    server.run(sockets=[listener])
    if server.engine_failed:
        raise EngineError(f"the engine is down: {server.scheduler.stats().engine_error}")


def set_up_logging(level: str) -> None:
    """Log Pensieve at `level` and its libraries from warnings upwards."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("pensieve").setLevel(level.upper())
    # It warns of every prompt that is longer than the model's context; the answer to that is ours.
    logging.getLogger("transformers").setLevel(logging.ERROR)
