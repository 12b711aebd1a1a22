"""The connection between rank 0 and another rank: frames of a kind, a length and bytes, never a pickle."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from typing import Any

from ... import PensieveError

HEAD = struct.Struct("!BI")
MAX_BYTES = 2**28

BEAT_S = 1.0
"""Seconds between two heartbeats."""

KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPALIVE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}
"""Seconds, and a number of trials, after which a vanished machine counts as gone; as systems name them."""


REFUSED = "refused"
"""In an answer: why a rank cannot serve the model that it was asked for; it can be asked for another."""

LOST_STATUS = 70
"""Status with which rank 0's process ends when a rank is lost."""

FAILED_STATUS = 71
"""Status of another rank that cannot go on; it has told rank 0 why, or has said so where it runs."""


class RankError(PensieveError):
    """The ranks cannot serve the model together, in one line for the user."""


class LinkClosed(Exception):
    """The other end has closed the connection, or has sent what no rank sends."""


class FrameKind(IntEnum):
    """What a frame is."""

    BEAT = 0  # the sender lives
    MESSAGE = 1  # a JSON object: a question of rank 0, or the answer
    STEP = 2  # a plan, see plan_bytes.py
    DRAIN = 3  # wait for the step in flight
    FAILURE = 4  # the other rank gives up: why, as text


class Link:
    """One end of a connection. Any thread may send; one receives."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._socket = connection
        self._sending = threading.Lock()

    def send(self, kind: FrameKind, content: bytes = b"") -> None:
        """Send a frame. Raises LinkClosed."""
        try:
            with self._sending:
                self._socket.sendall(HEAD.pack(kind, len(content)) + content)
        except OSError as error:
            raise LinkClosed from error

    def tell(self, message: dict[str, Any]) -> None:
        """Send a JSON object. Raises LinkClosed."""
        self.send(FrameKind.MESSAGE, json.dumps(message).encode())

    def receive(self) -> tuple[FrameKind, bytes]:
        """Wait for a frame. Raises LinkClosed."""
        number, length = HEAD.unpack(self.read(HEAD.size))
        if length > MAX_BYTES or number not in list(FrameKind):
            raise LinkClosed
        return FrameKind(number), self.read(length)

    def read(self, count: int) -> bytes:
        """Wait for so many bytes. Raises LinkClosed."""
        data = bytearray()
        try:
            while len(data) < count:
                part = self._socket.recv(min(count - len(data), 2**20))
                if not part:
                    raise LinkClosed
                data += part
        except OSError as error:
            raise LinkClosed from error
        return bytes(data)

    def close(self) -> None:
        """Close the connection; nothing more is sent or received."""
        self._socket.close()

    def show_life(self) -> None:
        """Send heartbeats from now on, from a thread."""
        start_thread("rank heartbeat", self._beat)

    def _beat(self) -> None:
        with suppress(LinkClosed):
            while True:
                self.send(FrameKind.BEAT)
                time.sleep(BEAT_S)


def start_thread(name: str, target: Callable[..., None], *arguments: Any) -> None:
    """Start a thread that does not keep its process from ending."""
    threading.Thread(target=target, args=arguments, daemon=True, name=name).start()
