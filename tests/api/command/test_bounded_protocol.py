"""Connections on which no request arrives are closed; what is no HTTP gets JSON."""

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

import pytest
import uvicorn
from uvicorn.server import ServerState

from pensieve.api.command import bounded_protocol
from pensieve.api.command.bounded_protocol import BoundedProtocol

from ..conftest import Server, running

HEAD = b"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
CHUNKED = HEAD + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
HEAD += b"content-length: 9\r\n"
CRUMBS = b"1\r\n \r\n" * 40_000


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(Server(), http=BoundedProtocol) as server:
        yield server


def answer_to(server: Server, sent: bytes) -> bytes:
    """Send some bytes and return all that comes until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(sent)
        return b"".join(iter(lambda: client.recv(65_536), b""))


@pytest.mark.parametrize("sent", [b"", b"GET /health HTT", HEAD, HEAD + b"\r\n12345"])
def test_half_a_request_is_not_waited_for(
    server: Server, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some hundred such connections took all files that the process may open."""
    for name in ("HEAD_S", "REQUEST_S"):
        monkeypatch.setattr(bounded_protocol, name, 0.1)
    assert answer_to(server, sent) == b""


@pytest.mark.parametrize("reads_on", [True, False])
def test_who_does_not_read_on_is_cut_off(reads_on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers were computed to their ends for clients that had stopped to read, and kept."""
    monkeypatch.setattr(bounded_protocol, "READ_S", 0 if not reads_on else 3600)
    transport = MagicMock()
    transport.get_extra_info.return_value = None

    async def main() -> None:
        protocol = BoundedProtocol(uvicorn.Config(MagicMock()), ServerState(), {})
        protocol.connection_made(transport)
        protocol.pause_writing()
        if reads_on:
            protocol.resume_writing()
            assert protocol._unread_timer is None
        else:
            while not transport.abort.called:  # noqa: ASYNC110
                await asyncio.sleep(0)
        protocol.connection_lost(None)

    asyncio.run(main())
    assert transport.abort.called == (not reads_on)


def test_chunks_of_a_byte_are_not_read(server: Server) -> None:
    """A megabyte of them stopped the event loop for seconds."""
    try:
        answer = answer_to(server, CHUNKED + b"1\r\n \r\n" * 200_000)
    except ConnectionError:
        answer = b""
    assert answer == b""


@pytest.mark.parametrize("early", [0, len(CHUNKED) - 3])
def test_chunks_of_a_byte_are_not_read_behind_their_head_either(early: int) -> None:
    """Those that came with their head were all parsed: 250 KB stopped the event loop for 1.6 s."""
    transport = MagicMock()
    transport.get_extra_info.return_value = None
    transport.is_closing.side_effect = lambda: transport.close.called

    async def app(scope: object, receive: object, send: object) -> None:  # of no arguments: a factory
        pass

    config = uvicorn.Config(app, interface="asgi3", log_config=None, log_level="critical")

    async def main() -> int:
        protocol = BoundedProtocol(config, ServerState(), {})
        protocol.connection_made(transport)
        for part in (CHUNKED[:early], CHUNKED[early:] + CRUMBS):
            if part:  # h11 takes no bytes for the end of the connection
                protocol.data_received(part)
        protocol.connection_lost(None)
        return len(protocol.cycle.body)

    assert asyncio.run(main()) < bounded_protocol.CHECKED_BYTES / 6
    assert transport.close.called


POST_HEAD = b"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1\r\n"


@pytest.mark.parametrize(
    "first", [b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", POST_HEAD + b"content-length: 1\r\n\r\n"]
)
def test_chunks_of_a_byte_are_not_read_behind_another_request_either(first: bytes) -> None:
    """They wait until it is answered, or are parsed with its end where it has been answered before."""
    transport = MagicMock()
    transport.get_extra_info.return_value = None
    transport.is_closing.side_effect = lambda: transport.close.called

    async def app(scope: object, receive: object, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(app, interface="asgi3", log_config=None, log_level="critical")

    async def main() -> int:
        protocol = BoundedProtocol(config, ServerState(), {})
        protocol.connection_made(transport)
        second = CHUNKED + CRUMBS
        is_get = first.startswith(b"GET")
        protocol.data_received(first + second if is_get else first)
        cycle = protocol.cycle
        while not cycle.response_complete:  # noqa: ASYNC110
            await asyncio.sleep(0)
        if not is_get:
            protocol.data_received(b"x" + second)
        protocol.connection_lost(None)
        return 0 if protocol.cycle is cycle else len(protocol.cycle.body)

    assert asyncio.run(main()) < bounded_protocol.CHECKED_BYTES / 6
    assert transport.close.called


def test_chunks_of_a_hundred_bytes_are_read(server: Server) -> None:
    content = [{"role": "user", "content": "x" * 9000}]
    body = json.dumps({"model": "claude-x", "max_tokens": 1, "messages": content}).encode()
    parts = [body[i : i + 100].ljust(100) for i in range(0, len(body), 100)]
    chunks = b"".join(b"64\r\n%b\r\n" % part for part in parts)
    assert answer_to(server, CHUNKED + chunks + b"0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_whole_request_takes_its_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_S", "REQUEST_S"):
        monkeypatch.setattr(bounded_protocol, name, 0.1)
    server.scheduler.play(server.script("Hi there", delay_s=0.1))
    body = {"model": "claude-x", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    assert server.http().post("/v1/messages", json=body).json()["content"][0]["text"] == "Hi there"


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\nbad name: x\r\n\r\n"])
def test_what_is_no_http_gets_json(server: Server, sent: bytes) -> None:
    head, _, body = answer_to(server, sent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_much_that_is_no_http_is_read_no_further_than_the_answer_to_it(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """What followed the first 4 KB was parsed as well, which broke the connection with a traceback."""
    answer = answer_to(server, b"\x16\x03\x01\r\n\r\n" * 2000)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert "Fatal error" not in caplog.text


def test_a_body_that_is_no_http_after_its_answer_gets_no_other_one(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The second answer broke the connection with a traceback."""
    head = b"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(head)
        answer = client.recv(65_536)
        client.sendall(b"no length\r\n")
        answer += b"".join(iter(lambda: client.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert "Fatal error" not in caplog.text


def test_a_body_of_two_lengths_is_refused_and_nothing_behind_it_is_read(server: Server) -> None:
    head = HEAD + b"transfer-encoding: chunked\r\n\r\n"
    answer = answer_to(server, head + b"0\r\n\r\nGET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.startswith(b"HTTP/1.1 400 ")
