"""`pensieve serve`: finds the model, plans the memory, starts the engine and runs the HTTP server."""

import asyncio
import errno
import gc
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import uvicorn

from ... import PensieveError, __version__
from ...engine.loading.build import build
from ...engine.loading.tokenizer import load_tokenizer
from ...engine.logs import set_up_logging
from ...engine.process import EngineProcess
from ...engine.served_model import ServedModel
from ...scheduler.loop import SchedulerLoop
from ...scheduler.scheduler import Scheduler
from ..app import create_app
from ..config import ServerConfig
from ..keys_file import read_keys_file
from ..status.status_feed import StartFacts
from .bounded_protocol import BoundedProtocol
from .certificates import check_certificate
from .console import say
from .disk_start import DiskStart, describe_disk, files_of
from .flags import Settings
from .hangup import Hangup, ending_signals
from .local_models import find_model
from .start_report import describe_calls, describe_client, describe_plan

# Seconds after SIGTERM or SIGINT. Answers under way at GRACE_S end with an error event; connections open at
# CUT_S are closed.
GRACE_S = 3
CUT_S = GRACE_S + 1

DISK_S = 2
"""Seconds that the start waits for the disk tier to be opened."""

LOOK_S = 0.05
"""Seconds between two looks, at the stop, whether answers are under way."""

SWITCH_S = 0.001
"""Time after which a thread that runs Python gives way to the event loop; Python's default is 5 ms."""

GC_THRESHOLDS = (200_000, 5, 1000)
"""A collection looks at every token of every prompt since the last one, and requests leave no cycles behind.
So none is made while requests are served, unless objects pile up."""

PAUSE_S = 5
"""Seconds between two looks whether the server is idle, for a collection of all garbage."""


class ListenError(PensieveError):
    """The address or port cannot be listened on."""


class EngineGivenUp(PensieveError):
    """The engine failed for good while it served."""


class HelperThreads(ThreadPoolExecutor):
    """The event loop's threads. What they still compute at the server's stop is not waited for."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; return at once."""
        super().shutdown(wait=False, cancel_futures=True)


class Server(uvicorn.Server):
    """uvicorn with the scheduler's task, which starts before uvicorn and ends after the last answer."""

    def __init__(self, config: uvicorn.Config, scheduler: SchedulerLoop, greeting: str) -> None:
        super().__init__(config)
        self.scheduler = scheduler
        self.greeting = greeting
        self.start_facts = StartFacts(client=greeting)
        self.engine_failed = False
        self.disk: DiskStart | None = None
        self.hangup = Hangup()
        self.reload: Callable[[], None] | None = None  # what SIGHUP asks for
        self._disk_task: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._collector: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the scheduler, open the disk tier, then start uvicorn; then print the greeting.

        A tier that takes longer, because it hashes weights for the first time, is used from later on.
        """
        asyncio.get_running_loop().set_default_executor(HelperThreads(thread_name_prefix="help"))
        self._task = asyncio.create_task(self.scheduler.run())
        self._task.add_done_callback(self._scheduler_ended)
        if self.reload is not None:
            self.hangup.answer(asyncio.get_running_loop(), self.reload)
        self._collector = asyncio.create_task(collect_when_idle(self.scheduler))
        if self.disk is not None:
            self._disk_task = asyncio.create_task(self._use_disk(self.disk))
            await asyncio.wait([self._disk_task], timeout=DISK_S)
        await super().startup(sockets)
        if self.started:
            say(self.greeting)

    async def _use_disk(self, disk: DiskStart) -> None:
        """Give the scheduler the disk tier, if there is one."""
        layout = disk.model.pool_layout
        try:
            index = await asyncio.to_thread(disk.open)
        except (OSError, RuntimeError, ValueError) as error:  # a path that is none, or has no home
            say(f"disk     no KV is kept there: {error}")
            return
        if index is not None and layout is not None:
            self.scheduler.use_disk(index, layout)
            say(describe_disk(index))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers end within GRACE_S, then cancel the scheduler, which fails the other answers.

        Until then requests that come get a 529, which clients take for a reason to try again. What is being
        saved to disk has the rest of that time.
        """
        assert self._task is not None
        stats, started_s = self.scheduler.stats(), time.monotonic()
        self.scheduler.refuse_new()
        if num_answers := stats.num_running + stats.num_waiting:
            say(f"stopping; answers under way: {num_answers}, a second Ctrl-C ends them now")
        self._task.get_loop().call_later(GRACE_S, self._task.cancel)
        while self._has_answers() and not self._task.done():  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
        self.config.timeout_graceful_shutdown = max(1, round(CUT_S - (time.monotonic() - started_s)))
        await super().shutdown(sockets)
        if self.disk is not None:
            await self.scheduler.saved()
        self._task.cancel()
        for task in (self._collector, self._disk_task):
            if task is not None:
                task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _has_answers(self) -> bool:
        stats = self.scheduler.stats()
        return stats.num_running + stats.num_waiting > 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at the first signal; at the second, fail all answers at once.

        uvicorn's own reaction to a second signal would break the connections without an error event.
        """
        if self.should_exit and self._task is not None and not self._task.done():
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)
        else:
            super().handle_exit(sig, frame)

    def end_soon(self, _number: int, _frame: FrameType | None) -> None:
        """Stop as soon as the start is over: the handler of signals while uvicorn's own is not in place."""
        self.should_exit = True

    def _scheduler_ended(self, task: asyncio.Task[None]) -> None:
        # A server without an engine cannot answer: the server ends, so that a supervisor can start it anew.
        if not task.cancelled():
            self.engine_failed = True
            self.should_exit = True


@contextmanager
def tuned_interpreter() -> Iterator[None]:
    """Shorten, in the block, the pauses that Python makes where an event loop writes many streams.

    What the start has made is exempt from garbage collection: looking through it takes 0.1 s.
    """
    thresholds, switch_s = gc.get_threshold(), sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(switch_s)
        gc.set_threshold(*thresholds)
        gc.unfreeze()


async def collect_when_idle(scheduler: SchedulerLoop) -> None:
    """Collect all garbage whenever requests have been served and none is left, until cancelled."""
    num_steps = 0
    while True:
        await asyncio.sleep(PAUSE_S)
        stats = scheduler.stats()
        if stats.counters.steps != num_steps and not stats.num_running + stats.num_waiting:
            num_steps = stats.counters.steps
            gc.collect()


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises PensieveError when the start fails or the engine is lost."""
    config = settings.server
    set_up_logging(config.log_level)
    hangup = Hangup(is_noted=config.api_keys_file is not None)
    check_certificate(config)
    if config.api_keys_file is not None:
        read_keys_file(config.api_keys_file)  # before the model is loaded: it may be wrong
    with bind(config) as listener, EngineProcess(config.log_level) as engine:
        say(f"pensieve {__version__}")
        planned = find_model(engine, settings.engine, settings.scheduler.max_batch)
        files = files_of(planned, settings.disk)
        tokenizer = load_tokenizer(planned.info)
        model = engine.start(build, planned)
        say(f"attends  with {model.attention}")
        scheduler = Scheduler(
            settings.scheduler.with_step_tokens(model.step_tokens),
            model.num_blocks,
            model.max_context,
            model.num_state_slots,
            model.window,
        )
        loop = SchedulerLoop(engine, scheduler)
        server = build_server(config, loop, model, tokenizer, listener)
        server.start_facts.plan = describe_plan(planned, settings.scheduler.max_batch)
        server.hangup = hangup
        server.disk = DiskStart(settings.disk, planned, model, files)
        run_server(server, listener)


def bind(config: ServerConfig) -> socket.socket:
    """Bind the port, before the model is loaded. `run_server` starts to listen on it. Raises ListenError."""
    try:
        families = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
        # A host may have addresses of both IP versions; version 4 is preferred.
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


def build_server(
    config: ServerConfig,
    scheduler: SchedulerLoop,
    model: ServedModel,
    tokenizer: Any,
    listener: socket.socket,
) -> Server:
    """Build the application and the HTTP server for a scheduler, and print what is shown and constrained."""
    port = listener.getsockname()[1]
    app = create_app(replace(config, port=port), model, tokenizer, scheduler)
    say(f"template {app.state.abilities}")
    say(describe_calls(app.state.constraint_factory))
    debug = config.log_level == "debug"
    uvicorn_config = uvicorn.Config(
        app,
        http=BoundedProtocol,  # of h11: httptools accepts ambiguous requests
        ssl_certfile=config.tls_cert,
        ssl_keyfile=config.tls_key,
        log_config=None,
        log_level="debug" if debug else "warning",
        access_log=False,  # which would hold queries; the application has one of its own
        server_header=False,
        timeout_graceful_shutdown=CUT_S,
    )
    server = Server(uvicorn_config, scheduler, describe_client(model, config, port))
    app.state.start_facts = server.start_facts
    server.reload = app.state.keys.reload if config.api_keys_file is not None else None
    return server


def run_server(server: Server, listener: socket.socket) -> None:
    """Run until a signal. Raises ListenError, or EngineGivenUp when the engine is lost."""
    # At its end uvicorn raises the signal again, which would end this process before the engine's process.
    # And a signal that comes before uvicorn takes them must not be lost.
    for number in ending_signals():
        signal.signal(number, server.end_soon)
    try:
        # Two servers may bind one port; the second to listen fails, which uvloop does not report.
        listener.listen(server.config.backlog)
    except OSError as error:
        port = listener.getsockname()[1]
        raise ListenError(f"port {port} cannot be listened on: {error.strerror}") from error
    with tuned_interpreter():
        server.run(sockets=[listener])
    if server.engine_failed:
        raise EngineGivenUp(f"the engine is down: {server.scheduler.stats().engine_error}")
