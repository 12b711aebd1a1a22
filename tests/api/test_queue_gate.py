"""What the queue has no room for is refused before its body is read, and whoever comes next is served."""

import asyncio
import json
import random
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import h11
import pytest
import uvicorn
from uvicorn.server import ServerState

from pensieve.api.command.bounded_protocol import BoundedProtocol
from pensieve.api.command.plain_head import PlainHead, read_plain_head
from pensieve.api.queue_gate import GENERATING_PATHS, QueueGate
from pensieve.scheduler.exceptions import QueueFull, Stopping

from ..budget import trials
from ..fakes import ScriptedScheduler
from .conftest import Server, running

BODY = json.dumps(
    {"model": "claude-x", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
).encode()


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server(), http=BoundedProtocol) as server:
        server.scheduler.refusal = QueueFull(7)
        yield server


def post(body: bytes, path: str = "/v1/messages", more: str = "") -> bytes:
    lines = f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json"
    return "\r\n".join((*lines, f"content-length: {len(body)}", more + "\r\n")).encode() + body


class Connection:
    """A connection on which the answers to several requests can be read."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        self._file = self.socket.makefile("rb")

    def answer(self) -> tuple[bytes, dict[bytes, bytes], bytes]:
        """Return the next answer's status line, fields and body."""
        status, fields = self._file.readline(), {}
        while (line := self._file.readline()) != b"\r\n":
            name, _, value = line.strip().partition(b": ")
            fields[name] = value
        return status, fields, self._file.read(int(fields[b"content-length"]))

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@pytest.fixture
def connection(server: Server) -> Iterator[Connection]:
    connection = Connection(server)
    yield connection
    connection.close()


@pytest.mark.parametrize("path", sorted(GENERATING_PATHS))
def test_a_refused_request_is_told_when_to_come_back_in_the_words_of_its_api(
    server: Server, connection: Connection, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = MagicMock()  # what the application asks for, and the gate does not
    monkeypatch.setattr(server.scheduler, "place", place)
    connection.socket.sendall(post(b"no JSON, which nobody notices", path))
    status, fields, body = connection.answer()
    is_anthropic = path == "/v1/messages"
    assert status.startswith(b"HTTP/1.1 529 " if is_anthropic else b"HTTP/1.1 503 ")
    assert fields[b"retry-after"] == b"7"
    error = json.loads(body)["error"]
    assert error["type"] == ("overloaded_error" if is_anthropic else "server_error")
    if is_anthropic:
        assert json.loads(body)["request_id"].encode() == fields[b"request-id"]
    scraped = server.http().get("/metrics").text
    assert f'path="{path}",status="{status.split()[1].decode()}"}} 1.0' in scraped
    assert 'reason="queue_full"} 1.0' in scraped
    assert not place.called


def test_the_rest_of_a_refused_body_is_passed_over_and_the_connection_goes_on(
    server: Server, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = MagicMock()
    monkeypatch.setattr(server.scheduler, "place", place)
    whole = post(b"x" * 300_000)
    connection.socket.sendall(whole[:50_000])
    assert connection.answer()[0].startswith(b"HTTP/1.1 529 ")  # before the rest has come
    for start in range(50_000, len(whole), 50_000):
        connection.socket.sendall(whole[start : start + 50_000])
    assert not place.called
    monkeypatch.undo()
    server.scheduler.refusal = None
    server.scheduler.play(server.script("Hi there"))
    connection.socket.sendall(post(BODY))
    status, _, body = connection.answer()
    assert status.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body)["content"][0]["text"] == "Hi there"


@pytest.mark.parametrize("more", ["origin: http://x.example\r\n", "x-odd: transfer-encoding\r\n"])
def test_what_only_the_whole_server_may_judge_is_refused_by_it(connection: Connection, more: str) -> None:
    connection.socket.sendall(post(BODY, more=more))
    assert connection.answer()[0].startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 529 "))


def test_a_server_that_stops_says_so_rather_than_that_its_queue_is_full(
    server: Server, connection: Connection
) -> None:
    server.scheduler.refusal = Stopping("the server is stopping")
    connection.socket.sendall(post(BODY))
    assert b"stopping" in connection.answer()[2]


def test_requests_that_have_arrived_count_until_they_have_their_places() -> None:
    """A burst was read whole before the first request took its place: nobody was refused at once."""

    class Scheduler(ScriptedScheduler):
        def is_full(self, num_more: int) -> bool:
            return num_more >= 2

    served: list[object] = []

    async def app(scope: object, receive: object, send: object) -> None:
        served.append(scope)

    async def main() -> None:
        app.state = SimpleNamespace(  # type: ignore[attr-defined]
            queue_gate=QueueGate(Scheduler(refusal=QueueFull(7)), MagicMock(), MagicMock(num_orphans=0))
        )
        config = uvicorn.Config(app, interface="asgi3", log_config=None, log_level="critical")
        transports = [MagicMock(**{"get_extra_info.return_value": None}) for _ in range(4)]
        protocols = [BoundedProtocol(config, ServerState(), {}) for _ in transports]
        for protocol, transport in zip(protocols, transports, strict=True):
            protocol.connection_made(transport)
        for protocol in protocols[:3]:
            protocol.data_received(post(BODY))
        assert [transport.write.called for transport in transports[:3]] == [False, False, True]
        assert transports[2].write.call_args.args[0].startswith(b"HTTP/1.1 529 ")
        await asyncio.sleep(0)
        protocols[3].data_received(post(BODY))
        await asyncio.sleep(0)
        assert len(served) == 3
        for protocol in protocols:
            protocol.connection_lost(None)

    asyncio.run(main())


PIECES = (
    b"POST /v1/messages HTTP/1.1\r\n",
    b"POST /v1/messages?beta=true HTTP/1.1\r\n",
    b"POST /v1/messages HTTP/1.0\r\n",
    b"GET /v1/messages HTTP/1.1\r\n",
    b"content-length: 5\r\n",
    b"Content-Length: 7\r\n",
    b"content-length : 5\r\n",
    b"content-length: 5\n",
    b"content-length: 5, 5\r\n",
    b" content-length: 9\r\n",
    b"transfer-encoding: chunked\r\n",
    b"host: x\r\n",
    b"connection: close\r\n",
    b"\n",
    b"\r\n",
    b"\r",
    b"hello",
)


def test_a_head_that_is_read_without_a_parser_is_what_the_parser_reads() -> None:
    """Of everything else, a body that one reader skips could hold a request that the other one answers."""
    rng = random.Random(0)
    num_read = 0
    for _ in range(trials(3000, 30_000)):
        pieces = rng.choices(PIECES, k=rng.randint(1, 4))
        start, length, end = (rng.choice(PIECES[:2]), rng.choice(PIECES[4:6]), b"\r\n")
        data = b"".join([start, *pieces[:2], length, *pieces[2:], end]) + b"hello world"[: rng.randint(0, 7)]
        head = read_plain_head(data)
        if head is None:
            continue
        num_read += 1
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(data)
        try:
            request: Any = connection.next_event()
        except h11.RemoteProtocolError:
            continue  # no HTTP: a full queue refuses it in other words
        assert request.target.partition(b"?")[0] == head.path.encode()
        fields = dict(request.headers)
        num_body = len(data) - data.index(b"\r\n\r\n") - 4
        assert int(fields[b"content-length"]) == head.num_missing + num_body
        assert b"transfer-encoding" not in fields
        assert head.closes == (fields.get(b"connection") == b"close")
    assert num_read > 100


def test_a_plain_head_says_how_much_of_the_body_is_missing() -> None:
    whole = post(BODY)
    assert read_plain_head(whole) == PlainHead("/v1/messages", 0, closes=False)
    assert read_plain_head(whole[:-4]) == PlainHead("/v1/messages", 4, closes=False)
    assert read_plain_head(whole + b"POST") is None
    assert read_plain_head(whole[:90]) is None
