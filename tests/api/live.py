"""A server over a real engine with a model that emits noise, and the two SDKs to talk to it."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import httpx
import mlx_lm.utils
import openai
import uvicorn

from pensieve.api.app import create_app
from pensieve.api.command.serve import Server
from pensieve.api.config import ServerConfig
from pensieve.engine.process import EngineProcess
from pensieve.engine.step import SamplingParams
from pensieve.scheduler.config import SchedulerConfig
from pensieve.scheduler.loop import SchedulerLoop
from pensieve.scheduler.scheduler import Scheduler

from ..fakes import FakeModel
from ..models import build_random, write_model
from .conftest import CLIENT_SETTINGS, wait_until

EOS = 258
NUM_BLOCKS = 1500


def write_noise(folder: Path) -> Path:
    """Write a model whose tokens often end a string, so that its noise comes to an end."""
    return write_model(folder, vocab=512, letters='"}],:{[Ġetao1-0n')


@dataclass
class LiveServer:
    """A running server."""

    url: str
    loop: SchedulerLoop
    clients: ExitStack = field(default_factory=ExitStack)

    def anthropic(self) -> Any:
        """Make a client; its unions of types are of no use to a test that knows what it asked for."""
        client = anthropic.Anthropic(
            base_url=self.url,
            http_client=anthropic.DefaultHttpxClient(verify=False),
            **CLIENT_SETTINGS | {"timeout": 60.0},
        )
        return self.clients.enter_context(client)

    def openai(self) -> Any:
        """Make a client of the other SDK."""
        client = openai.OpenAI(
            base_url=f"{self.url}/v1",
            http_client=openai.DefaultHttpxClient(verify=False),
            **CLIENT_SETTINGS | {"timeout": 60.0},
        )
        return self.clients.enter_context(client)

    def http(self) -> httpx.Client:
        return self.clients.enter_context(httpx.Client(base_url=self.url, timeout=60.0, verify=False))


@contextmanager
def live_server(folder: Path) -> Iterator[LiveServer]:
    """Serve the model in `folder` from a thread, on a free port."""
    with EngineProcess() as engine:
        engine.start(build_random, folder, NUM_BLOCKS, True)
        loop = SchedulerLoop(engine, Scheduler(SchedulerConfig(max_batch=16), NUM_BLOCKS, 40_000))
        with _running(loop, folder) as server:
            yield server


@contextmanager
def _running(loop: SchedulerLoop, folder: Path) -> Iterator[LiveServer]:
    tokenizer: Any = mlx_lm.utils.load_tokenizer(folder, eos_token_ids=[EOS])
    model = FakeModel(
        vocab_size=512,
        max_context=40_000,
        eos_token_ids=frozenset({EOS}),
        default_sampling=SamplingParams(temperature=1.0),
    )
    app = create_app(ServerConfig(), model, tokenizer, loop)
    config = uvicorn.Config(app, port=0, http="h11", log_level="critical", timeout_graceful_shutdown=1)
    server = Server(config, loop, "")
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    live = LiveServer(f"http://127.0.0.1:{port}", loop)
    try:
        with live.clients:
            yield live
    finally:
        server.should_exit = True
        thread.join()
