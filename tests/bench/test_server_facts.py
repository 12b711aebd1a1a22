"""What a server tells beside its answers, and servers that tell nothing."""

import asyncio
import json
from typing import Any

import pytest

from pensieve.bench.config import BenchConfig
from pensieve.bench.server_facts import TYPICAL_TOKEN_CHARS, ServerSilent, device_times, token_chars


def answered(ask: Any, *answers: bytes) -> Any:
    """What `ask` returns of a server that gives these answers, one a connection."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if "content-length: " in head:
            await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
        content = left.pop(0)
        status = b"200 OK" if content else b"404 Not Found"
        writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(content), content))
        await writer.drain()
        writer.close()

    async def run() -> Any:
        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with listener:
            port = listener.sockets[0].getsockname()[1]
            return await asyncio.to_thread(ask, BenchConfig(url=f"http://127.0.0.1:{port}"))

    return asyncio.run(run())


def test_a_token_is_as_long_as_the_server_counts() -> None:
    counts = [json.dumps({"input_tokens": count}).encode() for count in (10, 10 + 7999 // 4)]
    assert answered(token_chars, *counts) == pytest.approx(4.0, rel=0.001)
    assert answered(token_chars, b"", b"") == TYPICAL_TOKEN_CHARS
    assert answered(token_chars, b"no JSON", b"[]") == TYPICAL_TOKEN_CHARS


@pytest.mark.parametrize(
    ("answer", "times"),
    [
        (b'{"sessions": [{"id": "b", "device_ms": 2}, {"id": "a", "device_ms": 1.5}]}', (1.5, 2)),
        (b'{"sessions": [{"id": "a", "device_ms": 1.5}, 7, {"id": "b"}]}', ()),
        (b'{"sessions": 3}', ()),
        (b"", ()),
    ],
)
def test_device_times_are_those_of_all_sessions_or_none(answer: bytes, times: tuple[float, ...]) -> None:
    assert answered(lambda config: device_times(config, ("a", "b")), answer) == times


def test_a_server_that_is_not_there_tells_nothing() -> None:
    nobody = BenchConfig(url="http://127.0.0.1:9")
    assert device_times(nobody, ("a",)) == ()
    with pytest.raises(ServerSilent, match="no connection"):
        token_chars(nobody)
