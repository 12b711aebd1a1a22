"""The log's line of each finished request: what it holds, and which requests have none."""

import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from pensieve.api.output.request_record import MAX_LOGGED_CHARS, escaped
from pensieve.scheduler.exceptions import EngineDown, QueueFull

from ...fakes import Script
from ..conftest import Server, wait_until
from ..test_errors import BODY

NAME = "pensieve.api.output.request_record"
SESSION = "x-claude-code-session-id"

Lines = Callable[[int], list[dict[str, str]]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, server: Server) -> Iterator[Lines]:
    """Wait for so many finished requests; return the fields of their lines."""

    def wait(count: int) -> list[dict[str, str]]:
        wait_until(lambda: len(messages()) >= count)
        assert len(messages()) == count
        return [dict(word.split("=", 1) for word in line.split(" ")[2:]) for line in messages()]

    def messages() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == NAME]

    with caplog.at_level("INFO", "pensieve"):
        yield wait


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions", "/v1/completions"])
def test_each_finished_request_has_one_line(
    server: Server, lines: Lines, caplog: pytest.LogCaptureFixture, stream: bool, path: str
) -> None:
    server.scheduler.play(Script([[65], [66], [67]], delay_s=0.01, num_cached=1))
    body = BODY | {"stream": stream, "max_tokens": 99, "prompt": "Hi"}
    response = server.http().post(path, json=body, headers={SESSION: "abc-1"})
    (line,) = lines(1)
    assert f"request {response.headers['request-id']} session=abc-1 " in caplog.text
    assert list(line) == ["session", "prompt", "cached", "generated", "queue", "ttft", "rate", "outcome"]
    assert line["prompt"] == str(len(server.scheduler.requests[0].prompt))
    assert (line["cached"], line["generated"], line["outcome"]) == ("1", "4", "stop")
    for name, form in {"queue": r"0\.\d{3}s", "ttft": r"\d\.\d{3}s", "rate": r"\d+\.\d/s"}.items():
        assert re.fullmatch(form, line[name])


OUTCOMES: dict[str, tuple[Script, dict[str, Any]]] = {
    "length": (Script([[65]] * 20), {"max_tokens": 2}),
    "stop_sequence": (Script([list(b"a stop")]), {"stop_sequences": ["stop"]}),
    "tool_use": (
        Script([list(b'<tool_call>{"name": "Bash", "arguments": {}}</tool_call>')]),
        {"tools": [{"name": "Bash", "input_schema": {}}], "max_tokens": 999},
    ),
    "error": (Script([[65]], fails=True), {}),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("stream", [False, True])
def test_the_line_tells_how_the_request_ended(
    server: Server, lines: Lines, outcome: str, stream: bool
) -> None:
    script, fields = OUTCOMES[outcome]
    server.scheduler.play(script)
    server.http().post("/v1/messages", json=BODY | {"stream": stream} | fields)
    assert lines(1)[0]["outcome"] == outcome


@pytest.mark.parametrize("stream", [False, True])
def test_a_cancelled_request_has_a_line(server: Server, lines: Lines, stream: bool) -> None:
    server.scheduler.play(Script(hangs=True))
    request = httpx.Request("POST", server.url + "/v1/messages", json=BODY | {"stream": stream})
    send_and_leave(server, request)
    (line,) = lines(1)
    assert (line["outcome"], line["generated"]) == ("abort", "0")
    assert (line["ttft"], line["rate"], line["session"]) == ("-", "-", "-")


def send_and_leave(server: Server, request: httpx.Request) -> None:
    """Send a request from a connection that closes once the request is queued."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = [f"{name}: {value}" for name, value in request.headers.items()]
        text = "\r\n".join([f"POST {request.url.path} HTTP/1.1", *head, "", ""])
        connection.sendall(text.encode() + request.read())
        wait_until(lambda: bool(server.scheduler.token_streams))


def test_counts_and_refusals_have_no_line(server: Server, lines: Lines) -> None:
    client = server.http()
    client.post("/v1/messages/count_tokens", json=BODY)
    client.post("/v1/messages", json=BODY | {"max_tokens": -1})
    server.scheduler.refusal = QueueFull(10)
    client.post("/v1/messages", json=BODY)
    client.get("/health")
    assert lines(0) == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_a_dead_engine_cannot_take_is_logged(
    server: Server, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    server.scheduler.refusal = EngineDown("5 steps failed")
    response = server.http().post("/v1/messages", json=BODY | {"stream": stream})
    assert f"request {response.headers['request-id']} failed: 5 steps failed" in caplog.text


def test_a_session_cannot_forge_lines_or_colour_them(server: Server, lines: Lines) -> None:
    """ESC and CSI pass HTTP's parser, and so does the space that a field's end would need."""
    headers = {SESSION.encode(): b"a\x1b[31m\x9b outcome=stop prompt=0"}
    server.http().post("/v1/messages", json=BODY, headers=headers)
    (line,) = lines(1)
    assert line["session"] == r"a\x1b[31m\x9b\x20outcome=stop\x20prompt=0"
    assert line["prompt"] != "0"


@pytest.mark.parametrize(
    ("text", "logged"),
    [
        ("5f2c-a_b.c", "5f2c-a_b.c"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x7f\x85\u2028\x00", r"\x7f\x85\u2028\x00"),
        ("\\n", r"\\n"),
        ("é😀", r"\xe9\U0001f600"),
        ("x" * 200, "x" * MAX_LOGGED_CHARS + "..."),
    ],
)
def test_a_clients_text_is_one_printable_word(text: str, logged: str) -> None:
    assert escaped(text) == logged
