"""Responses in the background: asked for, resumed, cancelled and deleted by their ids."""

import asyncio
import gc
import json
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import openai
import pytest

from pensieve.api.config import KeepAlive
from pensieve.api.openai.responses.background import BackgroundRun, BackgroundRuns
from pensieve.api.openai.responses.event_log import EventLog
from pensieve.api.openai.responses.response_store import ResponseStore
from pensieve.scheduler.queue_forecast import Outlook

from ....fakes import Script
from ...conftest import Server, StartServer, wait_until
from .exchange import events, post, respond


def ended(server: Server, response_id: str) -> Any:
    """Wait for a response's end, as a client does, and return it."""
    client: Any = server.openai().responses
    wait_until(lambda: client.retrieve(response_id).status not in ("queued", "in_progress"))
    return client.retrieve(response_id)


def test_a_response_in_the_background_ends_without_its_client(server: Server) -> None:
    gate = threading.Event()
    server.scheduler.play(server.script("Done.", gate=gate))
    first = respond(server, background=True)
    assert (first.background, first.output) == (True, [])
    assert server.openai().responses.retrieve(first.id).status == "in_progress"
    with pytest.raises(openai.BadRequestError, match="has not ended"):
        respond(server, previous_response_id=first.id)
    client: Any = server.openai().responses
    assert [item.type for item in client.input_items.list(first.id)] == ["message"]
    gate.set()
    found = ended(server, first.id)
    assert (found.id, found.status, found.output_text) == (first.id, "completed", "Done.")
    assert respond(server, previous_response_id=first.id, input="On.").status == "completed"
    assert "assistant\nDone." in server.prompt_text()


def test_a_response_that_the_store_has_dropped_is_there_as_long_as_its_run(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ended(server, respond(server, background=True).id)
    monkeypatch.setattr(ResponseStore, "get", lambda *_: None)
    client = server.openai().responses
    assert client.retrieve(found.id) == found
    client.delete(found.id)
    with pytest.raises(openai.NotFoundError):
        client.retrieve(found.id)


def test_a_response_that_waits_is_queued(server: Server) -> None:
    outlook = Outlook(num_ahead=3, num_computed=0, num_prompt_tokens=9, seconds=None)
    server.scheduler.play(Script(hangs=True, outlook=outlook))
    first = respond(server, background=True)
    assert (first.status, server.openai().responses.retrieve(first.id).status) == ("queued", "queued")
    assert server.openai().responses.cancel(first.id).status == "cancelled"


def test_a_stream_is_resumed_where_its_client_left_it(server: Server) -> None:
    gate = threading.Event()
    server.scheduler.play(server.script("One two three.", gate=gate))
    client: Any = server.openai().responses
    seen: list[Any] = []
    with client.create(model="default", input="Hi", background=True, stream=True) as stream:
        for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
    response_id = seen[0].response.id
    kinds = [event.type for event in seen[:3]]
    assert kinds == ["response.created", "response.queued", "response.in_progress"]
    gate.set()
    seen += list(client.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number))
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    deltas = [event.delta for event in seen if event.type == "response.output_text.delta"]
    assert "".join(deltas) == seen[-1].response.output_text == "One two three."
    assert seen[-1].type == "response.completed"
    with client.stream(response_id=response_id) as whole:
        assert whole.get_final_response().output_text == "One two three."
    for after in ("x", "--1", "9" * 20):
        with pytest.raises(openai.BadRequestError, match="starting_after"):
            client.retrieve(response_id, stream=True, extra_query={"starting_after": after})


def test_silence_is_filled_with_comments_which_have_no_number(start_server: StartServer) -> None:
    server = start_server(keep_alive=KeepAlive(first_s=0.01, interval_s=0.01))
    server.scheduler.play(server.script("Hi", delay_s=0.1))
    text = post(server, stream=True, background=True).text
    assert ": ping\n\n" in text
    found = events(text.replace(": ping\n\n", ""))
    assert [event["sequence_number"] for event in found] == list(range(len(found)))


def test_a_running_response_is_cancelled_and_keeps_what_was_written(server: Server) -> None:
    server.scheduler.play(Script(server.script("Half").chunks, hangs=True))
    client: Any = server.openai().responses
    first = respond(server, background=True)
    with client.retrieve(first.id, stream=True) as stream:
        next(event for event in stream if event.type == "response.output_text.delta")
        found = client.cancel(first.id)
        assert [event.type for event in stream][-1] == "response.cancelled"
    assert (found.status, found.output_text, found.output[0].status) == ("cancelled", "Half", "incomplete")
    assert server.scheduler.token_streams[0].was_aborted
    assert client.cancel(first.id) == client.retrieve(first.id) == found


def test_only_responses_in_the_background_are_cancelled_and_resumed(server: Server) -> None:
    client, kept = server.openai().responses, respond(server)
    with pytest.raises(openai.BadRequestError, match="cancel: not a response in the background"):
        client.cancel(kept.id)
    with pytest.raises(openai.BadRequestError, match="stream: only the events of responses in the backgr"):
        client.retrieve(kept.id, stream=True)
    with pytest.raises(openai.NotFoundError):
        client.cancel("resp_0")
    with pytest.raises(openai.NotFoundError):
        client.retrieve("resp_0", stream=True)


def test_deleting_a_running_response_ends_it(server: Server) -> None:
    server.scheduler.play(Script(hangs=True))
    first = respond(server, background=True)
    other = server.openai(api_key="other").responses
    for request in (other.retrieve, other.cancel, other.delete):
        with pytest.raises(openai.NotFoundError):
            request(first.id)
    server.openai().responses.delete(first.id)
    assert server.scheduler.token_streams[0].was_aborted
    with pytest.raises(openai.NotFoundError):
        server.openai().responses.retrieve(first.id)


def test_a_response_that_fails_says_so_to_those_who_ask(server: Server) -> None:
    server.scheduler.play(server.script("Hi", fails=True))
    found = ended(server, respond(server, background=True).id)
    assert (found.status, found.error.code) == ("failed", "server_error")


def test_events_are_dropped_where_they_are_too_many() -> None:
    log = EventLog(max_bytes=1000)
    for number in range(100):
        log.append(f"data: {json.dumps(number)}\n\n" * 2)
    log.end()
    assert log.num_bytes <= 1000

    async def read(after: int) -> str:
        return b"".join([part async for part in log.follow(after, ping_s=60)]).decode()

    (lost,) = events(asyncio.run(read(log.first - 2)))  # a clean end would look like the whole answer
    assert (lost["type"], lost["code"]) == ("error", "events_dropped")
    assert len(asyncio.run(read(log.first - 1))) == log.num_bytes
    assert asyncio.run(read(197)) == "data: 99\n\n" * 2
    assert asyncio.run(read(500)) == ""


EVENT = "data: 0\n\n"


class Work:
    """Stands for the answer, the writer and the conversation of a response: two events, then its end."""

    owner, usage = "me", None

    def __init__(self, response_id: str) -> None:
        self.response_id = response_id

    async def __aiter__(self) -> AsyncIterator[list[Any]]:
        yield []

    def start(self, _usage: Any) -> str:
        return EVENT

    def events(self, _events: Any) -> str:
        return EVENT

    def end(self, _answer: Any) -> str:
        return EVENT

    def cancelled(self, _answer: Any) -> str:
        return EVENT

    def body_now(self, is_waiting: bool) -> Any:
        return {"id": self.response_id}

    def close(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_an_ended_run_keeps_its_body_and_events_alone_and_not_too_many(is_cancelled: bool) -> None:
    async def ends() -> None:
        runs, refs, started = BackgroundRuns(max_bytes=7 * len(EVENT)), [], []
        for response_id in "abc":
            work: Any = Work(response_id)
            refs.append(weakref.ref(work))
            run = BackgroundRun(work, work, work, (), ExitStack())
            started.append(run)
            runs.start(run)
            del work
        assert len(runs) == 3
        for run in started:
            if is_cancelled:
                run.cancel()
            assert [part async for part in run.events.follow(0, ping_s=60)]
        await asyncio.sleep(0)
        gc.collect()
        assert [ref() for ref in refs] == [None] * 3
        assert [run.body for run in started] == [{"id": response_id} for response_id in "abc"]
        kept = [runs.find("me", response_id) is not None for response_id in "abc"]
        assert kept == ([True] * 3 if is_cancelled else [False, True, True])

    asyncio.run(ends())
