"""Every refusal has Anthropic's shape, whatever part of the server refuses."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from pydantic import ValidationError

from pensieve.api.reports.request_log import RequestLog
from pensieve.api.schema import MessagesRequest
from pensieve.scheduler.exceptions import EngineDown, PromptTooLong, QueueFull, WaitedTooLong

from ..fakes import ByteTokenizer, Script
from .conftest import Server, StartServer

BODY: dict[str, Any] = {"model": "default", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}


def check(response: Any, status: int, kind: str) -> str:
    """Check an error's status and shape; return its message."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"type", "error", "request_id"}
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["request_id"] == response.headers["request-id"]
    assert "access-control-allow-origin" not in response.headers
    return str(body["error"]["message"])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b'{"model": NaN}',
        b'{"model": "\xff"}',
        b"[" * 100_000,
        json.dumps(BODY).encode("utf-16"),
        b'{"model": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_body_that_is_no_json_object_is_refused(server: Server, raw: bytes) -> None:
    response = server.http().post("/v1/messages", content=raw, headers={"content-type": "application/json"})
    assert "Traceback" not in check(response, 400, "invalid_request_error")


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
        ({"max_tokens": None}, "max_tokens: Input should be a valid integer"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": "Hi"}, "messages: Input should be a valid list"),
        (
            {"messages": [{"role": "user", "content": [{"kind": "odd"}]}]},
            "messages.0.content.0: Unable to extract tag using discriminator 'type'",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0: Input tag 'tool' found using 'role'"),
        ({"temperature": 9}, "temperature: "),
        ({"temperature": "hot"}, "temperature: "),
        ({"top_p": -1}, "top_p: "),
        ({"top_k": -2}, "top_k: "),
        ({"seed": 2**70}, "seed: "),
        ({"stop_sequences": [123]}, "stop_sequences.0: "),
        ({"tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}]}, "tools.0: tool 'mcp_toolset'"),
        ({"tools": [{"type": "computer_20250124", "name": "computer"}]}, "tools.0: tool 'computer_"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools.0.name: "),
        ({"tools": [{"name": "a", "input_schema": {}}] * 2}, "tools: tool names must be unique"),
        (
            {"tools": [{"name": "a", "input_schema": deep(250)}]},
            "the body is not valid JSON: recursion limit",
        ),
        ({"tool_choice": {"type": "any"}}, "tool_choice: type 'any' needs tools"),
        ({"stream": "perhaps"}, "stream: "),
        ({"stop_token_ids": [10**6]}, "logit_bias, stop_token_ids: the model has no such token"),
    ],
)
def test_a_bad_field_is_named(server: Server, fields: dict[str, Any], message: str) -> None:
    response = server.http().post("/v1/messages", json=BODY | fields)
    assert check(response, 400, "invalid_request_error").startswith(message)
    assert not server.scheduler.requests


def test_a_schema_nested_as_deep_as_json_may_be_is_served(server: Server) -> None:
    tools = [{"name": "a", "input_schema": deep(190)}]
    assert server.http().post("/v1/messages", json=BODY | {"tools": tools}).status_code == 200


def test_an_unknown_model_is_not_found(server: Server) -> None:
    message = check(server.http().post("/v1/messages", json=BODY | {"model": "gpt"}), 404, "not_found_error")
    assert server.model.name in message


@pytest.mark.parametrize(
    "name", ["claude-haiku-5-5", "test-org/Tiny-Model-4bit", "Tiny-Model-4bit", "default"]
)
def test_known_names_are_served_and_echoed(server: Server, name: str) -> None:
    assert server.http().post("/v1/messages", json=BODY | {"model": name}).json()["model"] == name


def test_unknown_routes_and_methods_have_the_shape_too(server: Server) -> None:
    client = server.http()
    check(client.get("/v1/nothing"), 404, "not_found_error")
    check(client.get("/docs"), 404, "not_found_error")
    check(client.get("/openapi.json"), 404, "not_found_error")
    refused = client.get("/v1/messages")
    check(refused, 405, "invalid_request_error")
    assert refused.headers["allow"] == "POST"
    check(client.options("/v1/messages"), 405, "invalid_request_error")


def test_the_shape_for_unknown_routes_is_that_of_both_apis(server: Server) -> None:
    body = server.http().post("/v1/embeddings", json={}).json()
    assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
    assert set(body["error"]) == {"message", "type", "param", "code"}


def test_only_json_is_read(server: Server) -> None:
    for media_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        response = server.http().post(
            "/v1/messages", content=json.dumps(BODY), headers={"content-type": media_type}
        )
        check(response, 415, "invalid_request_error")
    assert not server.scheduler.requests


def test_a_body_above_the_limit_is_refused_by_its_length(server: Server) -> None:
    body = b" " * (33 * 1024 * 1024)
    response = server.http().post("/v1/messages", content=body, headers={"content-type": "application/json"})
    check(response, 413, "request_too_large")


def test_a_body_above_the_limit_is_refused_without_a_length(server: Server) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(33):
            yield b" " * 1024 * 1024

    response = server.http().post(
        "/v1/messages", content=parts(), headers={"content-type": "application/json"}
    )
    check(response, 413, "request_too_large")


def test_a_body_below_the_limit_is_read(server: Server) -> None:
    body = json.dumps(BODY).encode() + b" " * (31 * 1024 * 1024)
    response = server.http().post("/v1/messages", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("refusal", "status", "kind"),
    [
        (PromptTooLong(70_000, 65_535), 400, "invalid_request_error"),
        (QueueFull(retry_after_s=10), 529, "overloaded_error"),
        (WaitedTooLong("for 600 s"), 529, "overloaded_error"),
        (EngineDown("three steps failed"), 500, "api_error"),
        (RuntimeError("a secret of ours"), 500, "api_error"),
    ],
)
def test_what_the_scheduler_refuses_is_answered_before_the_stream(
    server: Server, stream: bool, refusal: Exception, status: int, kind: str
) -> None:
    server.scheduler.refusal = refusal
    response = server.http().post("/v1/messages", json=BODY | {"stream": stream})
    message = check(response, status, kind)
    assert "secret" not in message
    if isinstance(refusal, PromptTooLong):
        assert message == "prompt is too long: 70000 tokens > 65535 maximum"
    if isinstance(refusal, QueueFull):
        assert response.headers["retry-after"] == "10"


def test_an_engine_failure_is_an_error_for_a_whole_message(server: Server) -> None:
    server.scheduler.play(Script([[65]], fails=True))
    check(server.http().post("/v1/messages", json=BODY), 500, "api_error")


def test_an_engine_failure_within_a_stream_is_an_error_event(server: Server) -> None:
    server.scheduler.play(Script([[65], [66]], fails=True))
    response = server.http().post("/v1/messages", json=BODY | {"stream": True})
    assert response.status_code == 200
    last = response.text.strip().split("\n\n")[-1]
    assert last.startswith("event: error\ndata: ")
    assert json.loads(last.partition("data: ")[2])["error"]["type"] == "api_error"
    assert "message_stop" not in response.text


def test_the_sdk_raises_on_a_failure_within_a_stream(server: Server) -> None:
    server.scheduler.play(Script([[65], [66]], fails=True))
    with (
        pytest.raises(anthropic.APIStatusError),
        server.sdk().messages.stream(max_tokens=9, model="default", messages=BODY["messages"]) as stream,
    ):
        stream.until_done()


def test_a_template_that_raises_is_a_refusal(start_server: StartServer) -> None:
    template = "{{ raise_exception('Only one turn is allowed') }}"
    server = start_server(tokenizer=ByteTokenizer(template))
    message = check(server.http().post("/v1/messages", json=BODY), 400, "invalid_request_error")
    assert "Only one turn is allowed" in message


def test_an_answer_of_nothing_but_invalid_bytes_is_valid_json(server: Server) -> None:
    server.scheduler.play(Script([[255, 0, 254, 10]]))
    assert server.http().post("/v1/messages", json=BODY).json()["content"][0]["text"] == "\ufffd\x00\ufffd\n"


def test_a_body_with_a_million_faults_is_refused_at_the_first() -> None:
    """All of them were once written out on the event loop, which stood still for 15 s."""
    with pytest.raises(ValidationError) as caught:
        MessagesRequest.model_validate({"model": "claude-x", "max_tokens": 1, "messages": [{}] * 300_000})
    assert caught.value.error_count() < 5


def test_a_request_whose_report_fails_after_it_was_queued_is_ended(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would have read its tokens, and it computed to its end."""

    def fail(*_: object) -> None:
        raise ValueError("a report that cannot be written")

    monkeypatch.setattr(RequestLog, "begin", fail)
    check(server.http().post("/v1/messages", json=BODY), 500, "api_error")
    assert server.scheduler.token_streams[0].was_aborted
