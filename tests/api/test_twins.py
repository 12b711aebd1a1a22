"""A request that is sent again after its client's timeout goes on with its answer; two at a time are two."""

import asyncio
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from starlette.requests import Request
from starlette.types import Message

from pensieve.api import twins
from pensieve.api.metrics import Metrics
from pensieve.api.output.answer import SampledAnswer
from pensieve.scheduler.exceptions import QueueFull
from pensieve.scheduler.origin import Account

from .conftest import Server, running, wait_until

MESSAGES = [{"role": "user", "content": "Hi"}]
BODY: dict[str, Any] = {"model": "claude-x", "max_tokens": 99, "messages": MESSAGES}

NUMBERS = itertools.count()

TEXT = "One, two, three, and so on"

PATIENT, GONE = {"x-stainless-timeout": "600"}, {"x-stainless-timeout": "0"}
AGENT = {"x-claude-code-session-id": "s", "x-claude-code-agent-id": "a"}
RETRY = {"x-stainless-retry-count": "1"}

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def only_server() -> Iterator[Server]:
    with running(Server()) as server:
        yield server


@pytest.fixture
def server(only_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose first answer waits for `opened`, and which waits long for clients to ask again."""
    monkeypatch.setattr(twins, "GRACE_S", 600.0)
    # No test's request is sent again by the next test.
    monkeypatch.setitem(BODY, "metadata", {"user_id": str(next(NUMBERS))})
    only_server.scheduler.reset()
    yield only_server
    opened(only_server).set()


def opened(server: Server) -> threading.Event:
    """Return what lets the first answer go on."""
    gate = server.scheduler.scripts[0].gate
    assert gate is not None
    return gate


@pytest.fixture(autouse=True)
def _gated(server: Server) -> None:
    server.scheduler.play(server.script(TEXT, gate=threading.Event()))


def num_attached(server: Server) -> float:
    lines = server.http().get("/metrics").text.splitlines()
    return float(
        next(line for line in lines if line.startswith("pensieve_resends_attached_total ")).split()[1]
    )


@contextmanager
def streaming(
    server: Server, headers: dict[str, str], path: str = "/v1/messages", **more: Any
) -> Iterator[httpx.Response]:
    """Send a request on a connection of its own, which is closed at the end of the block."""
    body = BODY | {"stream": True} | more
    with (
        httpx.Client(base_url=server.url, timeout=20, verify=False) as client,
        client.stream("POST", path, json=body, headers=headers) as response,
    ):
        yield response


def leave_one(server: Server, headers: dict[str, str], path: str = "/v1/messages", **more: Any) -> None:
    """Send a request, and close the connection once it is in work."""
    num_before = len(server.scheduler.requests)
    with streaming(server, headers, path, **more) as response:
        next(response.iter_raw())  # whose end, which is now, may close the connection as well
        wait_until(lambda: len(server.scheduler.requests) > num_before)


def text_of(response: httpx.Response) -> str:
    """Return the text of an answer, whole or streamed."""
    assert response.status_code == 200, response.text
    if response.headers["content-type"] == "application/json":
        return str(response.json()["content"][0]["text"])
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
    return "".join(event["delta"].get("text", "") for event in events if "delta" in event)


def ask_claude(server: Server) -> str:
    client = server.sdk(max_retries=40, timeout=0.4)
    return str(client.messages.create(**BODY).content[0].text)


def ask_openai(server: Server) -> str:
    client = server.openai(max_retries=40, timeout=0.4)
    return str(client.chat.completions.create(**BODY).choices[0].message.content)


@pytest.mark.parametrize("ask", [ask_claude, ask_openai])
def test_an_answer_that_takes_longer_than_the_timeout_of_an_sdk_comes_all_the_same(
    server: Server, ask: Callable[[Server], str]
) -> None:
    """Each retry began anew, and none was computed to its end."""
    before = num_attached(server)
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(ask, server)
        wait_until(lambda: num_attached(server) > before)
        opened(server).set()
        assert answer.result() == TEXT
    assert len(server.scheduler.requests) == 1
    assert not server.scheduler.token_streams[0].was_aborted


@pytest.mark.parametrize("stream", [True, False])
def test_a_stream_that_was_given_up_goes_on_streamed_or_whole(server: Server, stream: bool) -> None:
    leave_one(server, GONE | AGENT)
    opened(server).set()
    again = server.http().post("/v1/messages?beta=true", json=BODY | {"stream": stream}, headers=GONE | AGENT)
    assert text_of(again) == TEXT
    assert len(server.scheduler.requests) == 1


def test_all_choices_go_on(server: Server) -> None:
    leave_one(server, GONE, CHAT, n=2)
    wait_until(lambda: len(server.scheduler.requests) == 2)
    opened(server).set()
    again = server.http().post(CHAT, json=BODY | {"n": 2, "stream": False}, headers=RETRY)
    assert [choice["message"]["content"] for choice in again.json()["choices"]] == [TEXT, TEXT]
    assert len(server.scheduler.requests) == 2


def test_a_full_queue_takes_a_request_that_goes_on_with_its_answer(server: Server) -> None:
    leave_one(server, GONE)
    server.scheduler.refusal = QueueFull(7)
    opened(server).set()
    answers: list[httpx.Response] = []

    def is_served() -> bool:  # once the server has noticed that the client has left
        assert server.http().post("/v1/messages", json=BODY | {"top_k": 1}).status_code == 529
        answers.append(server.http().post("/v1/messages", json=BODY))
        return answers[-1].status_code != 529

    wait_until(is_served)
    assert text_of(answers[-1]) == TEXT


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-api-key": "another"}, {}),
        ({"x-claude-code-session-id": "another"}, {}),
        ({"x-claude-code-agent-id": "another"}, {}),
        ({}, {"max_tokens": 98}),
        ({}, {"temperature": 0.5}),
    ],
)
def test_what_another_asks_or_asks_otherwise_is_a_request_of_its_own(
    server: Server, headers: dict[str, str], body: dict[str, Any]
) -> None:
    sent = GONE | AGENT
    leave_one(server, sent)
    opened(server).set()
    again = server.http().post("/v1/messages", json=BODY | body, headers=sent | headers)
    assert text_of(again) == TEXT
    assert len(server.scheduler.requests) == 2


def test_a_client_that_leaves_early_ends_its_answer(server: Server) -> None:
    for headers in ({}, PATIENT, PATIENT | AGENT):
        leave_one(server, headers)
        wait_until(lambda: server.scheduler.token_streams[-1].was_aborted)


def test_the_same_request_twice_at_a_time_gets_two_samples(server: Server) -> None:
    """Also where one of them is a retry: the other one's client has not given up."""
    with ThreadPoolExecutor() as threads:
        for headers in (PATIENT, PATIENT | RETRY, PATIENT | AGENT, PATIENT | AGENT):
            threads.submit(server.http().post, "/v1/messages", json=BODY, headers=headers)
        wait_until(lambda: len(server.scheduler.requests) == 4)
        opened(server).set()


def test_only_one_request_goes_on_with_an_answer_that_was_given_up(server: Server) -> None:
    leave_one(server, GONE)
    with ThreadPoolExecutor() as threads:
        answers = [
            threads.submit(server.http().post, "/v1/messages", json=BODY, headers=PATIENT | RETRY)
            for _ in range(2)
        ]
        wait_until(lambda: len(server.scheduler.requests) == 2)
        opened(server).set()
        assert [text_of(answer.result()) for answer in answers] == [TEXT, TEXT]


@pytest.mark.parametrize(("more", "goes_on"), [(RETRY, True), (AGENT, True), ({}, False)])
def test_a_client_that_seems_to_be_there_has_given_up_where_it_asks_again_after_its_timeout(
    server: Server, more: dict[str, str], goes_on: bool
) -> None:
    """A proxy may keep the connection of a client that has left."""
    with ThreadPoolExecutor() as threads:
        with streaming(server, GONE | more) as first:
            chunks = first.iter_raw()  # whose end would close the connection
            next(chunks)
            before = num_attached(server)
            again = threads.submit(server.http().post, "/v1/messages", json=BODY, headers=PATIENT | more)
            wait_until(lambda: num_attached(server) > before or len(server.scheduler.requests) == 2)
        opened(server).set()  # after the first one has left
        assert text_of(again.result()) == TEXT
    assert len(server.scheduler.requests) == (1 if goes_on else 2)


def test_an_answer_that_has_failed_is_not_given_to_a_retry(server: Server) -> None:
    gate = opened(server)
    gate.set()
    server.scheduler.play(server.script("No", fails=True, gate=gate), server.script(TEXT, gate=gate))
    assert server.http().post("/v1/messages", json=BODY, headers=GONE).status_code == 500
    assert text_of(server.http().post("/v1/messages", json=BODY, headers=GONE | RETRY)) == TEXT


def test_a_reader_that_comes_too_late_leaves_once(server: Server) -> None:
    answer = Mock(SampledAnswer)
    found: twins.Twins[str] = twins.Twins(Mock(Metrics))

    async def read() -> None:
        left = asyncio.Event()
        answer.close.side_effect = left.set
        (view,) = found.share("prepared", twins.Sending(b"key", "r", 0.0, timeout_s=0.0), [answer])
        view.close()
        reader = found.find(twins.Sending(b"key", "s", 0.0))
        assert reader is not None
        reader.begin_within(0)
        await left.wait()
        for late in reader.views():
            late.close()

    asyncio.run(read())
    assert found.find(twins.Sending(b"key", "t", 0.0, num_retries=1)) is None


def key_of(body: object) -> bytes:
    async def receive() -> Message:
        return {"type": "http.request", "body": json.dumps(body).encode()}

    state = {"account": Account(), "request_id": "r"}
    http = Request({"type": "http", "path": "/", "headers": [], "client": ("h", 1), "state": state}, receive)
    return asyncio.run(twins.sending_of(http, 0.0)).key


def test_only_the_body_s_own_stream_makes_no_difference() -> None:
    """Such a field of a tool's schema or arguments is part of what is asked."""
    nested: list[Callable[[bool], Any]] = [
        lambda yes: {"tools": [{"default": {"stream": yes}}]},
        lambda yes: {"input": {"a": '\\"}]', "stream": yes}, "b": "{"},
        lambda yes: {"text": json.dumps({"stream": yes})},
    ]
    for place in range(3):
        for make in nested:
            fields = [("a", [{}, "]"]), ("z", {"k": '"'})]
            bodies = [
                dict([*fields[:place], ("stream", own), *make(yes).items(), *fields[place:]])
                for yes in (True, False)
                for own in (True, False)
            ]
            assert [len(set(map(key_of, pair))) for pair in (bodies[:2], bodies[2:])] == [1, 1]
            assert len(set(map(key_of, bodies))) == 2


def test_an_answer_for_which_nobody_comes_back_is_ended(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twins, "GRACE_S", -0.5)
    leave_one(server, GONE)
    wait_until(lambda: server.scheduler.token_streams[-1].was_aborted)


@pytest.mark.parametrize("part", [1, 5, 9, 100])
def test_stream_fields_on_borders_of_parts_are_found(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "HASHED_AT_ONCE", part)
    streamed, whole = (twins._digest(b"s", b'{"a": 1, "stream": %b}' % flag) for flag in (b"true", b"false"))
    assert streamed == whole == twins._digest(b"s", b'{"a": 1}')
    assert whole != twins._digest(b"s", b'{"a": {"stream": true}}')
