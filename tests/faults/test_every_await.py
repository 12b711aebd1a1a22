"""A request that is cancelled, or whose client leaves, at each point at which its code waits."""

import asyncio
import contextvars
import json
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest

from pensieve.api.app import create_app
from pensieve.api.config import ServerConfig

from ..api.reports.conftest import Scheduled
from ..fakes import FakeModel
from .figures import Figures

PATIENCE_S = 20

MAX_AWAITS = 200
"""A request that waits more often is taken for one that never ends."""

REPLY = "Yes, gladly."

COUNTER: contextvars.ContextVar["Suspensions | None"] = contextvars.ContextVar("suspensions", default=None)
"""Of the request whose task runs; its own tasks inherit it."""

TOOL = {"name": "f", "input_schema": {"type": "object", "properties": {"a": {"type": "string"}}}}
BODY = {"model": "default", "max_tokens": 99, "messages": [{"role": "user", "content": "Will you?"}]}
BODIES = {
    "whole": BODY,
    "stream": BODY | {"stream": True},
    "with tools": BODY | {"stream": True, "tools": [TOOL]},
}


class Suspensions:
    """Counts how often the tasks of one request wait, and has something happen at one of these times.

    It happens while the task that is to wait gives up control: nothing else runs in between.
    """

    def __init__(self, due: int) -> None:
        self.has_happened = False
        self._count = 0
        self._due = due

    def watch(self, request: "asyncio.Task[Any]", event: Callable[[], object]) -> None:
        """Take the request, and what happens to it if it has not ended by the due time."""
        self._request = request
        self._event = event

    def add(self) -> None:
        """Count one."""
        self._count += 1
        if self._count == self._due and not self._request.done():
            self.has_happened = True
            self._event()


class Counted(Coroutine[Any, Any, Any]):
    """A task's coroutine that counts when it waits."""

    def __init__(self, inner: Coroutine[Any, Any, Any], counter: Suspensions) -> None:
        self._inner = inner
        self._counter = counter

    def send(self, value: Any) -> Any:
        """See Coroutine."""
        waited_for = self._inner.send(value)
        self._counter.add()
        return waited_for

    def throw(self, *error: Any) -> Any:
        """See Coroutine."""
        waited_for = self._inner.throw(*error)
        self._counter.add()
        return waited_for

    def close(self) -> None:
        """See Coroutine."""
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._inner.__await__())


def count_tasks(loop: asyncio.AbstractEventLoop, inner: Any, **options: Any) -> "asyncio.Task[Any]":
    """Make a task, whose waits count if it is one of a request that counts."""
    counter = COUNTER.get()
    return asyncio.Task(inner if counter is None else Counted(inner, counter), loop=loop, **options)


class Asked:
    """One request to the application, as its server gives it."""

    def __init__(self, fields: dict[str, Any]) -> None:
        raw = json.dumps(fields).encode()
        self.sent: list[dict[str, Any]] = []
        self.scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/v1/messages",
            "raw_path": b"/v1/messages",
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 7777),
            "state": {},
        }
        self._left = asyncio.Event()
        self._body = [{"type": "http.request", "body": part, "more_body": part != b""} for part in (raw, b"")]

    def leave(self) -> None:
        """Have the client leave."""
        self._left.set()

    async def receive(self) -> dict[str, Any]:
        """Return the body's parts, then that the client has left, once it has."""
        await asyncio.sleep(0)
        if self._body and not self._left.is_set():
            return self._body.pop(0)
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        """Take a part of the answer; a client takes its time."""
        await asyncio.sleep(0)
        if not self._left.is_set():
            self.sent.append(message)

    @property
    def text(self) -> str:
        """What the client was sent."""
        return b"".join(message.get("body", b"") for message in self.sent).decode()


async def ask(app: Any, fields: dict[str, Any], how: str, due: int) -> tuple[bool, str]:
    """Ask, and cancel or leave at the due suspension; return whether that came, and what was sent."""
    counter, asked = Suspensions(due), Asked(fields)
    COUNTER.set(counter)
    task = asyncio.create_task(app(asked.scope, asked.receive, asked.send))
    COUNTER.set(None)
    counter.watch(task, task.cancel if how == "is cancelled" else asked.leave)
    done, _ = await asyncio.wait([task], timeout=PATIENCE_S)
    assert done, f"suspension {due}: the request does not end"
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error
    return counter.has_happened, asked.text


async def at_each(server: Scheduled, fields: dict[str, Any], how: str) -> tuple[int, list[str]]:
    """Ask once for each suspension; return how many there are, and what was left behind."""
    asyncio.get_running_loop().set_task_factory(count_tasks)
    app = create_app(ServerConfig(), FakeModel(num_blocks=server.num_blocks), server.tokenizer, server.loop)
    running = asyncio.create_task(server.loop.run())
    _, answer = await ask(app, BODY, "", 0)
    assert REPLY in answer
    await asyncio.sleep(0.1)  # what has been cancelled ends
    num_tasks = len(asyncio.all_tasks())
    left_behind = list[str]()
    for due in range(1, MAX_AWAITS):
        messages = [{"role": "user", "content": f"Will you, {due}?"}]  # nobody asks for an answer again
        has_happened, answer = await ask(app, fields | {"messages": messages}, how, due)
        assert due > 1 or REPLY not in answer, "the first await comes before the answer"
        if not await settles(server, num_tasks):
            left_behind.append(f"suspension {due}: {server.loop.stats()}, {len(asyncio.all_tasks())} tasks")
        if not has_happened:
            break
    else:
        raise AssertionError("there is always one more await")
    assert REPLY in answer or "message_stop" in answer, "the last of them ran to its end"
    _, answer = await ask(app, BODY, "", 0)
    assert REPLY in answer
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return due - 1, left_behind


async def settles(server: Scheduled, num_tasks: int) -> bool:
    """Whether the scheduler holds nothing soon, and no task is left."""
    for _ in range(PATIENCE_S * 100):
        stats = server.loop.stats()
        held = stats.num_running + stats.num_waiting + stats.blocks_held + server.loop._num_places
        if not held and len(asyncio.all_tasks()) == num_tasks:
            return True
        await asyncio.sleep(0 if held else 0.01)
    return False


@pytest.mark.parametrize("how", ["is cancelled", "leaves"])
@pytest.mark.parametrize("kind", BODIES)
def test_a_request_that_ends_at_any_await_leaves_nothing_behind(
    how: str, kind: str, figures: Figures
) -> None:
    figure = figures.begin(12, f"a request ({kind}) that {how} at each await", "nothing left behind")
    server = Scheduled()
    server.engine.replies = [REPLY]
    count, left_behind = asyncio.run(at_each(server, BODIES[kind], how))
    assert count > 20
    figure.check("; ".join([f"{count} awaits", *left_behind[:2]]), not left_behind)
