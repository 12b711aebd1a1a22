"""A server with a scripted engine, on a real socket."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import anthropic
import httpx
import openai
import pytest
import uvicorn

from pensieve.api.app import create_app
from pensieve.api.config import KeepAlive, ServerConfig

from ..fakes import ByteTokenizer, FakeModel, Script, ScriptedScheduler

# No test's server speaks TLS; without `verify=False` each client reads all certificates, for 50 ms.
CLIENT_SETTINGS: dict[str, Any] = {"api_key": "any", "max_retries": 0, "timeout": 20.0}


@dataclass
class Server:
    """A running server and the engine that a test scripts."""

    config: ServerConfig = field(default_factory=ServerConfig)
    model: FakeModel = field(default_factory=FakeModel)
    tokenizer: ByteTokenizer = field(default_factory=ByteTokenizer)
    keep_alive: KeepAlive = field(default_factory=KeepAlive)
    scheduler: ScriptedScheduler = field(default_factory=ScriptedScheduler)
    port: int = 0
    clients: ExitStack = field(default_factory=ExitStack)  # closed when the server stops

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sdk(self, **options: Any) -> anthropic.Anthropic:
        """Make an SDK client that does not hide failures by retrying."""
        settings = CLIENT_SETTINGS | {"http_client": anthropic.DefaultHttpxClient(verify=False)} | options
        return self.clients.enter_context(anthropic.Anthropic(base_url=self.url, **settings))

    def openai(self, **options: Any) -> openai.OpenAI:
        """Make a client of the other SDK, under the same conditions."""
        settings = CLIENT_SETTINGS | {"http_client": openai.DefaultHttpxClient(verify=False)} | options
        return self.clients.enter_context(openai.OpenAI(base_url=f"{self.url}/v1", **settings))

    def http(self) -> httpx.Client:
        return self.clients.enter_context(httpx.Client(base_url=self.url, timeout=20.0, verify=False))

    def script(self, text: str, size: int = 3, **options: Any) -> Script:
        """Make an answer of a text, a few tokens at a time."""
        tokens = self.tokenizer.encode(text)
        return Script([tokens[i : i + size] for i in range(0, len(tokens), size)], **options)

    def prompt_text(self, index: int = -1) -> str:
        """Return the prompt that the engine was given."""
        return self.tokenizer.decode(self.scheduler.requests[index].prompt)


StartServer = Callable[..., Server]


@contextmanager
def running(server: Server, http: Any = "h11") -> Iterator[Server]:
    """Run a server in a thread, on a free port. http: uvicorn's setting."""
    app = create_app(server.config, server.model, server.tokenizer, server.scheduler, server.keep_alive)
    config = uvicorn.Config(
        app, port=0, http=http, log_level="critical", timeout_graceful_shutdown=1, lifespan="off"
    )
    with in_thread(uvicorn.Server(config)) as server.port, server.clients:
        yield server


@contextmanager
def in_thread(server: uvicorn.Server) -> Iterator[int]:
    """Run uvicorn's server in a thread, and say on which port."""
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Start servers that stop at the end of the test."""
    with ExitStack() as stack:
        yield lambda **parts: stack.enter_context(running(Server(**parts)))


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Server]:
    """A server with the defaults, for all tests that need nothing else."""
    with running(Server()) as server:
        yield server


@pytest.fixture
def server(shared_server: Server) -> Iterator[Server]:
    """The shared server, with nothing left of the tests before."""
    shared_server.scheduler.reset()
    with ExitStack() as clients:
        shared_server.clients = clients
        yield shared_server


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait for another thread to bring something about."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
