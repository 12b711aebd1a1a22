"""Streams over HTTP, as servers really frame them."""

import asyncio

import pytest

from pensieve.bench.wire import Event, EventParser, HttpRequest, RequestFailed, stream_events

from .conftest import ScriptedServer, chunked, scripted

STREAM = b': hello\n\nevent: a\ndata: {"x":\ndata: 1}\n\ndata:b\r\n\r\nevent: c\n\nid: 7\ndata: d\n\n'
EVENTS = [Event("a", '{"x":\n1}'), Event("message", "b"), Event("message", "d")]


async def read(server: ScriptedServer) -> list[Event]:
    async with scripted(server):
        call = HttpRequest(f"{server.url}/path", {"x-api-key": "k"}, {"a": "ü"})
        return [event async for event in stream_events(call)]


def answer(*chunks: bytes) -> ScriptedServer:
    return ScriptedServer(lambda _: list(chunks))


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_events_are_the_same_however_their_bytes_are_cut(size: int) -> None:
    parser = EventParser()
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert [event for piece in pieces for event in parser.feed(piece)] == EVENTS


def test_chunked_content_is_read() -> None:
    server = answer(*chunked(STREAM[:20], STREAM[20:]))
    assert asyncio.run(read(server)) == EVENTS
    assert server.bodies == [{"a": "ü"}]


def test_content_until_the_server_closes_is_read() -> None:
    assert asyncio.run(read(answer(b"HTTP/1.0 200 OK\r\n\r\n", STREAM))) == EVENTS


def test_content_of_a_stated_length_is_read() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(STREAM)
    assert asyncio.run(read(answer(head, STREAM))) == EVENTS


def test_a_refusal_is_told_with_its_text() -> None:
    with pytest.raises(RequestFailed, match="status 529: try later"):
        asyncio.run(read(answer(b"HTTP/1.1 529 Busy\r\ncontent-length: 9\r\n\r\ntry later")))


@pytest.mark.parametrize(
    "chunks",
    [(b"",), (b"HTTP/1.1 200 OK\r\n",), chunked(STREAM)[:-1], (b"nonsense\r\n\r\n",)],
    ids=["nothing", "half a head", "no last chunk", "no HTTP"],
)
def test_a_broken_answer_is_a_failure(chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(RequestFailed, match="connection lost"):
        asyncio.run(read(answer(*chunks)))


def test_nobody_listening_is_a_failure() -> None:
    async def call() -> None:
        async for _ in stream_events(HttpRequest("http://127.0.0.1:9/", {}, {})):
            pass

    with pytest.raises(RequestFailed, match="no connection"):
        asyncio.run(call())
