"""The server around the scheduler's task, without a model."""

import asyncio
import gc
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from pensieve.api.command import serve
from pensieve.api.command.hangup import Hangup, ending_signals
from pensieve.api.command.serve import (
    EngineGivenUp,
    ListenError,
    Server,
    bind,
    collect_when_idle,
    run_server,
)
from pensieve.api.config import ServerConfig


class DyingScheduler:
    """A scheduler whose engine is given up soon after the start."""

    engine_error = "3 steps failed one after another"
    num_running = num_waiting = 0

    async def run(self) -> None:
        await asyncio.sleep(0.05)

    def stats(self) -> "DyingScheduler":
        return self

    def refuse_new(self) -> None:
        """No request comes."""


async def no_app(scope: object, receive: object, send: object) -> None:
    raise AssertionError("nothing was asked")


@pytest.fixture(autouse=True)
def _signal_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def make_server() -> Server:
    scheduler: Any = DyingScheduler()
    config = uvicorn.Config(no_app, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    return Server(config, scheduler, "ready")


def test_a_dead_engine_ends_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    """A server that only looks alive is worse than one that whoever watches it can start anew."""
    before = interpreter()
    with (
        bind(ServerConfig(port=0)) as listener,
        pytest.raises(EngineGivenUp, match="the engine is down: 3 steps failed"),
    ):
        run_server(make_server(), listener)
    assert capsys.readouterr().out == "ready\n"
    assert interpreter() == before, "other tests run in this process"


def interpreter() -> tuple[object, ...]:
    return gc.get_threshold(), gc.get_freeze_count(), sys.getswitchinterval()


def test_a_second_signal_ends_the_answers_and_not_their_connections() -> None:
    """uvicorn's own haste would drop them in the middle, with a traceback each."""

    async def main() -> None:
        server = make_server()
        server._task = asyncio.create_task(asyncio.sleep(60))
        server.handle_exit(signal.SIGINT, None)
        await asyncio.sleep(0)
        assert (server.should_exit, server._task.cancelling()) == (True, 0)
        server.handle_exit(signal.SIGINT, None)
        await asyncio.wait([server._task], timeout=5)
        assert (server._task.cancelled(), server.force_exit) == (True, False)
        server.handle_exit(signal.SIGINT, None)
        assert server.force_exit, "the third time it is uvicorn's"

    asyncio.run(main())


def test_a_port_lost_while_loading_is_named() -> None:
    """Two servers may bind one port; the second to listen on it fails, minutes later."""
    with bind(ServerConfig(port=0)) as listener:
        port = listener.getsockname()[1]
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            with pytest.raises(ListenError, match=f"port {port} cannot be listened on"):
                run_server(make_server(), listener)


def test_a_hangup_reads_the_keys_anew() -> None:
    server, reloaded = make_server(), threading.Event()
    server.reload = reloaded.set

    async def run() -> None:
        signal.raise_signal(signal.SIGHUP)
        await asyncio.to_thread(reloaded.wait, 60)

    server.scheduler.run = run  # type: ignore[method-assign]
    with bind(ServerConfig(port=0)) as listener, pytest.raises(EngineGivenUp):
        run_server(server, listener)
    assert reloaded.is_set()


def test_a_hangup_before_the_start_is_over_reads_the_keys_anew() -> None:
    """It ended a server that still loaded its model."""
    server, reloaded = make_server(), threading.Event()
    server.reload = reloaded.set
    server.hangup = Hangup(is_noted=True)
    signal.raise_signal(signal.SIGHUP)

    async def run() -> None:
        await asyncio.to_thread(reloaded.wait, 60)

    server.scheduler.run = run  # type: ignore[method-assign]
    with bind(ServerConfig(port=0)) as listener, pytest.raises(EngineGivenUp):
        run_server(server, listener)
    assert reloaded.is_set()


def test_a_closed_terminal_ends_a_server_in_good_order() -> None:
    """SIGHUP ended it at once, in the middle of its answers."""
    server = make_server()
    server.scheduler.run = asyncio.Event().wait  # type: ignore[assignment,method-assign]

    async def startup(sockets: list[socket.socket] | None = None) -> None:
        await start(sockets)
        signal.raise_signal(signal.SIGHUP)

    start, server.startup = server.startup, startup  # type: ignore[method-assign]
    with bind(ServerConfig(port=0)) as listener:
        run_server(server, listener)


def test_a_server_that_is_to_outlive_its_terminal_does() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert signal.SIGHUP not in ending_signals()


def test_localhost_is_the_address_that_is_printed() -> None:
    with bind(ServerConfig(host="localhost", port=0)) as listener:
        assert listener.family == socket.AF_INET


class Cycle:
    """Garbage that only a collection frees."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_collected_while_nothing_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "PAUSE_S", 0.001)
    stats = SimpleNamespace(counters=SimpleNamespace(steps=5), num_running=1, num_waiting=0)
    scheduler: Any = SimpleNamespace(stats=lambda: stats)

    async def main() -> None:
        collector = asyncio.create_task(collect_when_idle(scheduler))
        freed = asyncio.Event()
        garbage = weakref.ref(Cycle(), lambda _: freed.set())
        await asyncio.sleep(0.05)
        assert garbage() is not None  # a request runs
        stats.num_running = 0
        await asyncio.wait_for(freed.wait(), 20)
        garbage = weakref.ref(Cycle())
        await asyncio.sleep(0.05)
        assert garbage() is not None  # nothing has run since
        collector.cancel()

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_a_signal_before_the_start_is_over_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    """It came before uvicorn had its own handler in place, and was swallowed."""
    server = make_server()
    start = server.run

    def interrupted(sockets: list[socket.socket] | None = None) -> None:
        signal.raise_signal(signal.SIGTERM)
        start(sockets)

    server.run = interrupted  # type: ignore[method-assign]
    server.scheduler.run = asyncio.Event().wait  # type: ignore[assignment,method-assign]
    with bind(ServerConfig(port=0)) as listener:
        run_server(server, listener)
    assert capsys.readouterr().out.startswith("ready\n")


@pytest.mark.slow  # imports all anew
def test_threads_that_still_work_do_not_hold_the_end_up() -> None:
    program = """
import sys, threading
from pensieve.api.command import cli, serve
def work(_):
    begun = threading.Event()
    serve.HelperThreads().submit(lambda: (begun.set(), threading.Event().wait()))
    begun.wait()
cli._run = work
cli.run()
"""
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)
