"""A server with the real scheduler, and an engine that needs no model: a test writes its answers."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn

from pensieve.api.app import create_app
from pensieve.api.command.serve import Server
from pensieve.api.config import ServerConfig
from pensieve.engine.hang_watch import EngineState
from pensieve.engine.step import StepPlan, StepResult, StepsDone, StepTime
from pensieve.scheduler.config import SchedulerConfig
from pensieve.scheduler.loop import SchedulerLoop
from pensieve.scheduler.scheduler import Scheduler

from ...fakes import IM_END, ByteTokenizer, FakeModel
from ..conftest import in_thread


class WritingEngine:
    """Gives each sequence the next of `replies`, a token a step; the last one is repeated."""

    state: EngineState = "ok"

    def __init__(self, tokenizer: ByteTokenizer) -> None:
        self.replies = ["Yes."]
        self.gate = threading.Event()  # steps wait while it is clear
        self.gate.set()
        self._tokenizer = tokenizer
        self._num_said: dict[int, int] = {}  # tokens by seq_id

    async def step(self, plan: StepPlan) -> StepsDone:
        await asyncio.sleep(0)
        if not self.gate.is_set():
            await asyncio.to_thread(self.gate.wait)
        tokens = {row.seq_id: self._next(row.seq_id) for row in plan.decode}
        return StepsDone((StepResult(plan.step_id, tokens),), (StepTime(plan.step_id, 0.001),))

    async def drain(self) -> StepsDone:
        await asyncio.sleep(0)
        return StepsDone()

    async def lost(self) -> None:
        await asyncio.Event().wait()

    def _next(self, seq_id: int) -> int:
        place = self._num_said.get(seq_id, 0)
        self._num_said[seq_id] = place + 1
        reply = self._tokenizer.encode(self.replies[min(seq_id, len(self.replies)) - 1])
        return [*reply, IM_END][min(place, len(reply))]


@dataclass
class Scheduled:
    """A running server."""

    tokenizer: ByteTokenizer = field(default_factory=ByteTokenizer)
    num_blocks: int = 400
    config: ServerConfig = field(default_factory=ServerConfig)
    port: int = 0
    clients: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.engine = WritingEngine(self.tokenizer)
        scheduler = Scheduler(SchedulerConfig(step_tokens=512), self.num_blocks, 100_000)
        self.loop = SchedulerLoop(self.engine, scheduler)

    def http(self, **headers: str) -> httpx.Client:
        url = f"http://127.0.0.1:{self.port}"
        client = httpx.Client(base_url=url, timeout=20.0, verify=False, headers=headers)
        return self.clients.enter_context(client)

    def ask(self, session: str = "one", **fields: Any) -> httpx.Response:
        """Send a request and read its response to the end."""
        body = {"model": "default", "max_tokens": 99} | fields
        return self.http(**{"x-claude-code-session-id": session}).post("/v1/messages", json=body)

    def verdict(self, session: str = "one", **fields: Any) -> tuple[str, str | None]:
        """Send a request; return why no more of its prompt was found, and the part in which that lies."""
        found = read_header(self.ask(session, **fields))
        return found["why"], found.get("in")


def read_header(response: httpx.Response) -> dict[str, str]:
    """Return the fields of the cache's header, the first one as `found` and `prompt`."""
    first, *others = response.headers["x-pensieve-cache"].split("; ")
    found, _, prompt = first.partition("/")
    return {"found": found, "prompt": prompt} | dict(field.split("=", 1) for field in others)


@contextmanager
def serving(server: Scheduled) -> Iterator[Scheduled]:
    model = FakeModel(num_blocks=server.num_blocks)
    app = create_app(server.config, model, server.tokenizer, server.loop)
    config = uvicorn.Config(app, port=0, http="h11", log_level="critical", timeout_graceful_shutdown=1)
    with in_thread(Server(config, server.loop, "")) as server.port, server.clients:
        try:
            yield server
        finally:
            server.engine.gate.set()


@pytest.fixture
def scheduled() -> Iterator[Scheduled]:
    with serving(Scheduled()) as server:
        yield server
