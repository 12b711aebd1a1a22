"""Waiting and leaving: pings while nothing else is sent, and cancellation whenever the client goes."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from pensieve.api.config import KeepAlive
from pensieve.scheduler.queue_forecast import Outlook

from ...fakes import Script
from ..conftest import Server, StartServer, running, wait_until

BODY: dict[str, Any] = {
    "model": "default",
    "max_tokens": 999,
    "messages": [{"role": "user", "content": "Hi"}],
}
SLOW = Script([[65]] * 500, delay_s=0.02)
SILENT = Script(hangs=True)


def events(response: httpx.Response) -> Iterator[str]:
    """Yield the names of a stream's events as they come."""
    for line in response.iter_lines():
        if line.startswith("event: "):
            yield line.removeprefix("event: ")


def test_message_start_does_not_wait_for_the_first_token_and_a_ping_follows_soon(
    start_server: StartServer,
) -> None:
    """A ping that came at the interval only would come after the client has given up."""
    assert KeepAlive().first_s < 1.0
    assert KeepAlive().interval_s == 10.0
    server = start_server(keep_alive=KeepAlive(interval_s=1000.0))
    server.scheduler.play(SILENT)
    with server.http().stream("POST", "/v1/messages", json=BODY | {"stream": True}) as response:
        names = events(response)
        assert [next(names), next(names)] == ["message_start", "ping"]


def test_a_ping_before_the_first_token_says_how_far_the_request_is(start_server: StartServer) -> None:
    server = start_server(keep_alive=KeepAlive(first_s=0.0, interval_s=1000.0))
    server.scheduler.play(Script([[65]], delay_s=0.2, outlook=Outlook(2, 10, 40, 3.2)))
    response = server.http().post("/v1/messages", json=BODY | {"stream": True})
    pings = [line for line in response.text.splitlines() if line.startswith('data: {"type":"ping"')]
    assert json.loads(pings[0].removeprefix("data: ")) == {
        "type": "ping",
        "queue_position": 3,
        "computed_tokens": 10,
        "prompt_tokens": 40,
        "estimate_s": 4,
    }
    with server.sdk().messages.stream(**BODY) as stream:
        assert stream.get_final_text() == "A"


def test_pings_come_at_the_interval_while_nothing_else_does(start_server: StartServer) -> None:
    server = start_server(keep_alive=KeepAlive(first_s=0.02, interval_s=0.1))
    server.scheduler.play(Script([[65]], delay_s=0.5))
    with server.http().stream("POST", "/v1/messages", json=BODY | {"stream": True}) as response:
        names = list(events(response))
    before, _, after = " ".join(names).partition("content_block_start")
    assert before.split()[0] == "message_start"
    assert 2 <= before.count("ping") <= 6
    assert 1 <= after.count("ping") <= 6
    assert names[-1] == "message_stop"


def test_a_busy_stream_has_no_pings(start_server: StartServer) -> None:
    server = start_server(keep_alive=KeepAlive(first_s=0.5, interval_s=0.5))
    server.scheduler.play(Script([[65]] * 30, delay_s=0.02))
    with server.http().stream("POST", "/v1/messages", json=BODY | {"stream": True}) as response:
        assert "ping" not in list(events(response))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [SILENT, SLOW, Script([[65]] * 3, hangs=True)])
@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves_ends_its_generation(
    server: Server, stream: bool, script: Script, reset: bool
) -> None:
    server.scheduler.play(script)
    connection = send(
        server, httpx.Request("POST", server.url + "/v1/messages", json=BODY | {"stream": stream})
    )
    wait_until(lambda: bool(server.scheduler.token_streams))
    time.sleep(0.05)
    token_stream = server.scheduler.token_streams[0]
    assert token_stream.num_cancels == 0
    leave(connection, reset)
    wait_until(lambda: token_stream.was_aborted)


def test_a_client_that_leaves_within_its_body_starts_nothing(server: Server) -> None:
    request = httpx.Request("POST", server.url + "/v1/messages", json=BODY)
    connection = send(server, request, cut=5)
    time.sleep(0.05)
    leave(connection, reset=False)
    assert server.http().get("/health").status_code == 200
    assert not server.scheduler.requests


def test_a_hundred_clients_that_leave_leave_nothing_behind(server: Server) -> None:
    server.scheduler.play(SLOW)
    for i in range(100):
        body = BODY | {"stream": i % 2 == 0}
        connection = send(server, httpx.Request("POST", server.url + "/v1/messages", json=body))
        time.sleep((i * 7 % 11) / 1000)
        leave(connection, reset=i % 3 == 0)
    wait_until(lambda: all(token_stream.finish_reason for token_stream in server.scheduler.token_streams))
    assert server.scheduler.stats().num_running == 0


def test_a_generation_that_never_waits_leaves_room_for_others(server: Server) -> None:
    server.scheduler.play(Script([[65]] * 20_000))
    with server.http().stream("POST", "/v1/messages", json=BODY | {"stream": True, "max_tokens": 10**5}):
        started = time.monotonic()
        assert server.http().get("/health").status_code == 200
        assert time.monotonic() - started < 2.0
    wait_until(lambda: server.scheduler.token_streams[0].finish_reason is not None)


def test_an_ended_generation_is_cancelled_harmlessly(server: Server) -> None:
    server.scheduler.play(Script([[65]]))
    server.http().post("/v1/messages", json=BODY)
    assert server.scheduler.token_streams[0].finish_reason == "stop"


def test_stopping_the_server_ends_its_streams() -> None:
    with running(Server()) as server:
        server.scheduler.play(SILENT)
        send(server, httpx.Request("POST", server.url + "/v1/messages", json=BODY | {"stream": True}))
        wait_until(lambda: bool(server.scheduler.token_streams))
    assert server.scheduler.token_streams[0].was_aborted


def send(server: Server, request: httpx.Request, cut: int = 0) -> socket.socket:
    """Send a request, without its last bytes, over a bare connection."""
    connection = server.clients.enter_context(socket.create_connection(("127.0.0.1", server.port)))
    lines = ["POST /v1/messages HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers.items())]
    content = "\r\n".join(lines).encode() + b"\r\n\r\n" + request.content
    connection.sendall(content[: len(content) - cut])
    return connection


def leave(connection: socket.socket, reset: bool) -> None:
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
