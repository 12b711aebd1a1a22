"""uvicorn's HTTP protocol with time limits for requests and answers, and JSON for what is no HTTP.

Without limits, connections that send nothing, or half a request, are kept for ever: some hundred of them take
all files that the process may open. For a client that no longer reads, an answer was computed to its end.

A request for which the queue has no room is answered here, by its head: of its body only the length counts.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import InvalidRequest, error_response
from ..queue_gate import QueueGate
from .plain_head import PlainHead, read_plain_head

HEAD_S = 30
"""Seconds from the beginning of a connection, or the first byte of a later request, to the end of a head."""

REQUEST_S = 180
"""Seconds from the end of a head to that of the body: 32 MB at 1.5 Mbit/s."""

READ_S = 60
"""Seconds in which a client must read on, once the system's buffers and the server's are full."""

MIN_CHUNK_BYTES, CHECKED_BYTES = 64, 4096
"""Chunks of a body that are so much smaller, in so many bytes, are an attack: h11 takes 10 us for each."""


CHUNKED = (b"transfer-encoding", b"chunked")


class BoundedProtocol(H11Protocol):
    """One connection. It is closed when a request does not arrive, or an answer is not read, in time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        gate = getattr(getattr(self.config.app, "state", None), "queue_gate", None)
        self._gate = gate if isinstance(gate, QueueGate) else None  # None for other applications
        self._refused: PlainHead | None = None  # a request whose body is being read, for nothing
        self._awaited: object = None  # what must arrive before the timer ends
        self._timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None  # runs while the client does not read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._await(h11.IDLE, HEAD_S)

    def data_received(self, data: bytes) -> None:
        """Take some bytes, and wait for the rest of the request that they belong to."""
        if self._refused is not None:
            self._pass_over(data, self._refused)
            return
        head = read_plain_head(data) if self._gate is not None and self._is_idle else None
        if self._gate is not None and head is not None and self._gate.is_full:
            self._unset_keepalive_if_required()
            self._await(head, REQUEST_S)
            self.transport.write(self._gate.refusal(head.path))  # before the body is there, which may be long
            self._pass_over(b"", head)
            return
        self._parse(data)
        if self._gate is not None and head is not None:
            self._gate.arrive(self.loop)
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            self._await(state, REQUEST_S)
        elif state is h11.IDLE and self.conn.our_state is h11.IDLE:
            self._await(state, HEAD_S)
        else:
            self._await(None, 0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._await(None, 0)
        self._await_reader(False)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Hold the answer back: the buffers are full. What is sent waits, and so does the answer's reader."""
        super().pause_writing()
        self._await_reader(True)

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        super().resume_writing()
        self._await_reader(False)

    def on_response_complete(self) -> None:
        """Go on with the requests that have come meanwhile, unless they are chunks of few bytes."""
        if _is_crumbled(self.conn.trailing_data[0]):
            self.transport.close()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, unless an answer has begun, and close the connection."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        body = bytes(error_response(InvalidRequest(msg), "", "").body)
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    @property
    def _is_idle(self) -> bool:
        """Whether the next byte is the first one of a request."""
        is_idle = self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE
        return is_idle and not self.conn.trailing_data[0]

    def _pass_over(self, data: bytes, head: PlainHead) -> None:
        """Take bytes of a refused request's body; after the last one, take what follows.

        The connection stays open until then: closed earlier, the client would lose its answer.
        """
        num_missing = max(0, head.num_missing - len(data))
        self._refused = head._replace(num_missing=num_missing) if num_missing else None
        if num_missing:
            return
        if head.closes:
            self.transport.close()
            return
        self._await(h11.IDLE, HEAD_S)
        self.on_response_complete()
        if len(data) > head.num_missing:
            self.data_received(data[head.num_missing :])

    def _parse(self, data: bytes) -> None:
        """Have h11 read some bytes, up to those that are no HTTP or close the connection.

        Where a head may end in them they are read in small pieces, so that chunks behind it are noticed.
        """
        while data:
            if self._is_in_chunks and _is_crumbled(data):
                self.transport.close()
                return
            may_hold_head = self.conn.their_state is h11.IDLE or self.conn.our_state is h11.DONE
            size = CHECKED_BYTES if may_hold_head else len(data)
            super().data_received(data[:size])
            if self.conn.their_state is h11.ERROR or self.transport.is_closing():
                return
            data = data[size:]

    @property
    def _is_in_chunks(self) -> bool:
        """Whether the next byte belongs to a body of chunks."""
        return self.conn.their_state is h11.SEND_BODY and CHUNKED in self.headers

    def _await_reader(self, is_awaited: bool) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        # Aborted, not closed: what is buffered would keep the connection open.
        self._unread_timer = self.loop.call_later(READ_S, self.transport.abort) if is_awaited else None

    def _await(self, state: object, limit_s: float) -> None:
        """Give a state of the request its time; more bytes of the same do not renew it."""
        if state is self._awaited:
            return
        self._awaited = state
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if state is None else self.loop.call_later(limit_s, self.transport.close)


def _is_crumbled(data: bytes) -> bool:
    """Return whether the data, if they are chunks, each between two line breaks, are of few bytes each."""
    return len(data) >= CHECKED_BYTES and data.count(b"\r\n") * MIN_CHUNK_BYTES > 2 * len(data)
