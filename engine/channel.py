"""Messages between two processes over a stream socket: a length, then a pickle."""

import asyncio
import pickle
import socket
from contextlib import suppress
from typing import Any

HEAD_BYTES = 8
READ_BYTES = 2**16


class ChannelClosed(Exception):
    """The other end has closed the channel."""


class Channel:
    """One end of a connection. Each end must trust the other: a pickle can run code."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, message: object) -> None:
        """Send a message and wait until it is sent. Raises ChannelClosed."""
        data = _frame(message)
        try:
            self._socket.setblocking(True)
            self._socket.sendall(data)
        except OSError as error:
            raise ChannelClosed from error

    def receive(self) -> Any:
        """Wait for a message and return it. Raises ChannelClosed."""
        data = bytearray()
        try:
            self._socket.setblocking(True)
            while len(data) < _num_bytes(data):
                _append(data, self._socket.recv(READ_BYTES))
        except OSError as error:
            raise ChannelClosed from error
        return pickle.loads(memoryview(data)[HEAD_BYTES:])

    async def ask(self, message: object) -> Any:
        """Send a message and wait for the answer without blocking the event loop. Raises ChannelClosed.

        Other tasks get a turn meanwhile also where the answer comes at once: reading alone would not suspend.
        Closes the channel when cancelled: the answer, still to come, would be taken for the next message's.
        """
        loop = asyncio.get_running_loop()
        data = bytearray()
        try:
            self._socket.setblocking(False)
            await loop.sock_sendall(self._socket, _frame(message))
            await asyncio.sleep(0)
            while len(data) < _num_bytes(data):
                _append(data, await loop.sock_recv(self._socket, READ_BYTES))
        except OSError as error:
            raise ChannelClosed from error
        except asyncio.CancelledError:
            self.close()
            raise
        return pickle.loads(memoryview(data)[HEAD_BYTES:])

    async def closed(self) -> None:
        """Wait until the other end closes the channel. An answer would end the wait: none may be due."""
        if self._socket.fileno() < 0:
            return
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._socket, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._socket)

    def shut(self) -> None:
        """End the connection while somebody may wait at this end, who then gets ChannelClosed.

        The event loop would not notice that a socket in which it waits is closed.
        """
        with suppress(OSError):  # it is closed already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end; the other end gets ChannelClosed."""
        self._socket.close()


def _frame(message: object) -> bytes:
    content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return len(content).to_bytes(HEAD_BYTES, "big") + content


def _num_bytes(data: bytearray) -> int:
    """Return the size of the frame that `data` begins: of its head alone until the head has arrived."""
    if len(data) < HEAD_BYTES:
        return HEAD_BYTES
    return HEAD_BYTES + int.from_bytes(data[:HEAD_BYTES], "big")


def _append(data: bytearray, part: bytes) -> None:
    if not part:
        raise ChannelClosed
    data += part
