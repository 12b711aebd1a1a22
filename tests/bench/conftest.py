"""A small HTTP server that answers as a test says, byte for byte."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ScriptedServer:
    """Answers every POST with what `answer` makes of its body: whole chunks, written one by one."""

    answer: Callable[[dict[str, Any]], list[bytes]]
    delay_s: float = 0.0  # before each chunk but the first
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)  # request lines and headers, in lower case
    num_dropped: int = 0  # connections that the client gave up

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        self.heads.append(head)
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        self.bodies.append(json.loads(await reader.readexactly(length)))
        try:
            for number, chunk in enumerate(self.answer(self.bodies[-1])):
                await asyncio.sleep(self.delay_s if number else 0.0)
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            self.num_dropped += 1
        finally:
            writer.close()


@asynccontextmanager
async def scripted(server: ScriptedServer) -> AsyncIterator[ScriptedServer]:
    """Run it on a free port."""
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        server.url = f"http://127.0.0.1:{port}"
        yield server


def chunked(*parts: bytes) -> list[bytes]:
    """A 200 whose content is these parts, each an HTTP chunk."""
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    return [head, *(b"%x\r\n%b\r\n" % (len(part), part) for part in parts), b"0\r\n\r\n"]


def sse(data: dict[str, Any]) -> bytes:
    """An event as Anthropic's API writes it."""
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


def messages_answer(words: list[str], prompt: int = 100, cached: int = 0) -> list[bytes]:
    """A whole answer of /v1/messages, a word an event."""
    usage = {"input_tokens": prompt - cached, "cache_read_input_tokens": cached, "output_tokens": 0}
    events = [sse({"type": "message_start", "message": {"usage": usage}}), sse({"type": "ping"})]
    for word in words:
        events.append(sse({"type": "content_block_delta", "delta": {"type": "text_delta", "text": word}}))
    events.append(sse({"type": "message_delta", "usage": usage | {"output_tokens": len(words)}}))
    return chunked(*events, sse({"type": "message_stop"}))
