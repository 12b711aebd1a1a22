"""One streamed HTTP request over asyncio, and its server-sent events. Knows nothing of the events' meaning.

The few lines of HTTP/1.1 are its own, because the load generator shares the machine with the server: a client
library took as much time for an event as the server did.
"""

import asyncio
import json
import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

READ_BYTES = 2**16


class RequestFailed(Exception):
    """The server refused, broke off, or sent an answer that is no stream of events."""


@dataclass(frozen=True, slots=True)
class Event:
    """A server-sent event."""

    name: str  # "message" where the server gives none
    data: str


class EventParser:
    """Parses server-sent events from bytes in pieces of any size. Comments are skipped."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """Parse the next bytes; return the events that are complete with them."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        events = []
        for line in lines:
            text = line.decode().removesuffix("\r")
            if text:
                self._take(text)
            elif self._data:
                events.append(Event(self._name or "message", "\n".join(self._data)))
            if not text:
                self._name, self._data = "", []
        return events

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._name = value
        elif name == "data":
            self._data.append(value)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A POST with a JSON body."""

    url: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]

    def encode(self) -> bytes:
        """Return the request's bytes."""
        address = urllib.parse.urlsplit(self.url)
        content = json.dumps(self.body).encode()
        headers = {
            "host": address.netloc,
            "content-type": "application/json",
            "content-length": str(len(content)),
            "connection": "close",
            **self.headers,
        }
        lines = [f"POST {address.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + content


async def stream_events(call: HttpRequest) -> AsyncGenerator[Event, None]:
    """Make the request and yield its events. Closing this generator drops the connection.

    Raises RequestFailed.
    """
    parser = EventParser()
    async with _connect(call.url) as (reader, writer):
        writer.write(call.encode())
        async for chunk in _body(reader):
            for event in parser.feed(chunk):
                yield event


@asynccontextmanager
async def _connect(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect. Errors of the block become RequestFailed."""
    address = urllib.parse.urlsplit(url)
    try:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
    except OSError as error:
        raise RequestFailed(f"no connection: {error.strerror}") from error
    try:
        yield reader, writer
    except (OSError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError) as error:
        raise RequestFailed(f"connection lost: {type(error).__name__}: {error}") from error
    finally:
        writer.transport.abort()  # at once, as a user's escape key does


async def _body(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Read the head of an answer, then its content. Raises RequestFailed when it is an error."""
    status, headers = await _head(reader)
    chunks = _chunks(reader) if headers.get("transfer-encoding") == "chunked" else _plain(reader, headers)
    if status != 200:
        content = b"".join([chunk async for chunk in chunks])
        raise RequestFailed(f"status {status}: {content[:300].decode(errors='replace')}")
    async for chunk in chunks:
        yield chunk


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    status = int((await reader.readuntil(b"\r\n")).split(b" ", 2)[1])
    headers: dict[str, str] = {}
    while (line := (await reader.readuntil(b"\r\n")).decode("latin-1").strip()) != "":
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip().lower()
    return status, headers


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readuntil(b"\r\n")


async def _plain(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
    """Yield a body's bytes up to its stated length, or until the server closes."""
    left = int(headers.get("content-length", 2**62))
    while left and (chunk := await reader.read(min(left, READ_BYTES))):
        left -= len(chunk)
        yield chunk
