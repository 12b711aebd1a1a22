"""Both APIs: requests as their servers want them, answers to text and usage."""

import json
from typing import Any

import pytest

from pensieve.bench.config import TraceConfig
from pensieve.bench.dialects import Anthropic, Api, ChatMessage, Delta, OpenAI, TokenUsage, make_api
from pensieve.bench.trace import make_trace
from pensieve.bench.wire import Event, RequestFailed

TRACE = make_trace(TraceConfig(sessions=1, tools=2, system_chars=900, output_tokens=5))
HISTORY = [ChatMessage("user", "one"), ChatMessage("assistant", "two"), ChatMessage("user", "three")]


def event(data: Any) -> Event:
    return Event("any", json.dumps(data))


def read(api: Api, *events: Any) -> tuple[str, TokenUsage, bool]:
    text, usage, is_end = "", TokenUsage(), False
    for data in events:
        delta = api.read(data if isinstance(data, Event) else event(data))
        text, usage, is_end = text + delta.text, usage.updated(delta.usage), is_end or delta.is_end
    return text, usage, is_end


def test_names_choose_the_api() -> None:
    assert [make_api("anthropic").path, make_api("openai").path] == ["/v1/messages", "/v1/chat/completions"]


def test_an_anthropic_request_has_its_head_apart() -> None:
    body = Anthropic().body(TRACE, "m", HISTORY)
    assert [message["content"] for message in body["messages"]] == ["one", "two", "three"]
    assert body["system"][0]["text"] == TRACE.system
    assert [tool["name"] for tool in body["tools"]] == [tool.name for tool in TRACE.tools]
    assert (body["model"], body["max_tokens"], body["stream"]) == ("m", 5, True)


def test_an_openai_request_begins_with_the_system_prompt_and_asks_for_usage() -> None:
    body = OpenAI().body(TRACE, "m", HISTORY)
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    assert body["tools"][0]["function"]["parameters"] == TRACE.tools[0].schema
    assert body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("api", [Anthropic(), OpenAI()])
def test_without_tools_none_are_named(api: Api) -> None:
    assert "tools" not in api.body(make_trace(TraceConfig(tools=0)), "m", HISTORY)


def test_an_anthropic_stream_is_understood() -> None:
    events = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 10, "output_tokens": 1}}},
        {"type": "ping"},
        {"type": "content_block_start", "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "a"}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "b"}},
        {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "c"}},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"input_tokens": 4, "cache_read_input_tokens": 6, "output_tokens": 3},
        },
        {"type": "message_stop"},
    ]
    assert read(Anthropic(), *events) == ("abc", TokenUsage(10, 6, 3), True)


def test_an_end_that_tells_only_the_output_leaves_the_prompt_as_it_was() -> None:
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 10, "output_tokens": 0}}}
    end = {"type": "message_delta", "delta": {}, "usage": {"input_tokens": 0, "output_tokens": 3}}
    assert read(Anthropic(), start, end)[1] == TokenUsage(10, None, 3)


def test_an_openai_stream_is_understood() -> None:
    events = [
        {"choices": [{"delta": {"role": "assistant", "content": None}}]},
        {"choices": [{"delta": {"reasoning_content": "a"}}]},
        {"choices": [{"delta": {"content": "b"}}]},
        {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "c"}}]}}]},
        {
            "choices": [],
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 3,
                "prompt_tokens_details": {"cached_tokens": 6},
            },
        },
    ]
    assert read(OpenAI(), *events, Event("message", "[DONE]")) == ("abc", TokenUsage(10, 6, 3), True)


@pytest.mark.parametrize(
    ("api", "data"),
    [
        (Anthropic(), {"type": "error", "error": {"message": "broken"}}),
        (OpenAI(), {"error": {"message": "broken"}}),
    ],
)
def test_an_error_in_the_stream_is_a_failure(api: Api, data: dict[str, Any]) -> None:
    with pytest.raises(RequestFailed, match="broken"):
        api.read(event(data))


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_what_is_no_object_is_a_failure(text: str) -> None:
    with pytest.raises(RequestFailed):
        OpenAI().read(Event("message", text))


def test_unknown_events_are_passed_over() -> None:
    assert Anthropic().read(event({"type": "novelty"})) == Delta()
