"""Messages between two processes over a stream socket: a length, then a pickle."""

import asyncio
import pickle
import socket
from typing import Any

HEAD_BYTES = 8
READ_BYTES = 2**16


class ChannelClosed(Exception):
    """The other side has gone."""


class Channel:
    """One end of a connection. Both ends must be trusted: a pickle can run code."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, message: object) -> None:
        """Send and wait until it is sent. Raises ChannelClosed."""
        data = _framed(message)
        try:
            self._socket.setblocking(True)
            self._socket.sendall(data)
        except OSError as error:
            raise ChannelClosed from error

    def receive(self) -> Any:
        """Wait for a message. Raises ChannelClosed."""
        data = bytearray()
        try:
            self._socket.setblocking(True)
            while len(data) < _num_bytes(data):
                _add(data, self._socket.recv(READ_BYTES))
        except OSError as error:
            raise ChannelClosed from error
        return pickle.loads(memoryview(data)[HEAD_BYTES:])

    async def ask(self, message: object) -> Any:
        """Send a message and wait for the answer, without keeping the event loop. Raises ChannelClosed.

        Cancelled, it closes the channel: the answer to this message would be taken for another's.
        """
        loop = asyncio.get_running_loop()
        data = bytearray()
        try:
            self._socket.setblocking(False)
            await loop.sock_sendall(self._socket, _framed(message))
            while len(data) < _num_bytes(data):
                _add(data, await loop.sock_recv(self._socket, READ_BYTES))
        except OSError as error:
            raise ChannelClosed from error
        except asyncio.CancelledError:
            self.close()
            raise
        return pickle.loads(memoryview(data)[HEAD_BYTES:])

    async def closed(self) -> None:
        """Wait until one of the sides has closed it, while nobody asks and so nothing is sent."""
        if self._socket.fileno() < 0:
            return
        loop = asyncio.get_running_loop()
        news = asyncio.Event()
        loop.add_reader(self._socket, news.set)
        try:
            await news.wait()
        finally:
            loop.remove_reader(self._socket)

    def close(self) -> None:
        """Close this end; the other one gets ChannelClosed."""
        self._socket.close()


def _framed(message: object) -> bytes:
    content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return len(content).to_bytes(HEAD_BYTES, "big") + content


def _num_bytes(data: bytearray) -> int:
    """Bytes of the whole message that `data` begins, as far as that is known."""
    if len(data) < HEAD_BYTES:
        return HEAD_BYTES
    return HEAD_BYTES + int.from_bytes(data[:HEAD_BYTES], "big")


def _add(data: bytearray, part: bytes) -> None:
    if not part:
        raise ChannelClosed
    data += part
