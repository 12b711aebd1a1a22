"""The messages of OpenAI's clients: every spelling of parts, calls and results reaches the model."""

from typing import Any

import pytest

from pensieve.api.openai.chat import messages_request
from pensieve.api.openai.requests import ChatRequest

from ..conftest import Server
from .exchange import HELLO, post


def translated(*messages: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    """Return the messages that the pipeline gets for a chat."""
    chat = ChatRequest.model_validate({"model": "m", "messages": [*HELLO, *messages]} | fields)
    return [message.model_dump(exclude_none=True) for message in messages_request(chat).messages[1:]]


def blocks(content: Any) -> list[dict[str, Any]]:
    (message,) = translated({"role": "user", "content": content})
    found: list[dict[str, Any]] = message["content"]
    return found


@pytest.mark.parametrize(
    "content",
    [
        "Hi",
        ["Hi"],
        {"type": "text", "text": "Hi"},
        [{"text": "Hi"}],
        [{"type": "input_text", "text": "Hi"}],
        [{"type": "output_text", "text": "Hi"}],
        [{"type": "refusal", "refusal": "Hi"}],
    ],
)
def test_a_text_is_read_in_every_form(content: Any) -> None:
    assert blocks(content) == [{"type": "text", "text": "Hi"}]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,xx"}},
        {"type": "image_url", "image_url": "data:image/png;base64,xx"},
        {"type": "input_image", "image_url": "data:image/png;base64,xx"},
    ],
)
def test_a_picture_is_read_in_every_form(part: Any) -> None:
    assert blocks([part]) == [{"type": "image", "source": {"media_type": "image/png"}}]


def test_null_content_and_parts_of_unknown_types_are_taken() -> None:
    assert blocks(None) == []
    (note,) = blocks([{"type": "odd", "data": "x"}])
    assert "'odd'" in note["text"]


@pytest.mark.parametrize(
    "turn",
    [
        {"reasoning_content": "Hm", "content": "Hi"},
        {"reasoning": "Hm", "content": "Hi"},
        {"content": [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Hi"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}, "Hi"]},
    ],
)
def test_thoughts_are_read_in_every_form(turn: Any) -> None:
    (message,) = translated({"role": "assistant"} | turn)
    assert message["content"] == [
        {"type": "thinking", "thinking": "Hm"},
        {"type": "text", "text": "Hi"},
    ]


RESULT = {"role": "tool", "content": "ok"}


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ({"id": "x", "function": {"name": "a", "arguments": "{}"}}, RESULT | {"tool_call_id": "x"}),
        ({"id": "x", "type": "function", "name": "a", "arguments": {}}, RESULT | {"tool_call_id": "x"}),
        ({"function": {"name": "a", "arguments": None}}, RESULT),
        ({"function": {"name": "a", "arguments": []}}, RESULT | {"tool_call_id": None}),
        ({"id": 7, "function": {"name": "a"}}, RESULT | {"tool_call_id": 7}),
        ({"function": {"name": "a", "arguments": ""}}, {"role": "function", "name": "a", "content": "ok"}),
    ],
)
def test_a_call_and_its_result_find_each_other(call: Any, result: Any) -> None:
    answer, followed = translated({"role": "assistant", "content": None, "tool_calls": [call]}, result)
    (use,), (outcome,) = answer["content"], followed["content"]
    assert (use["name"], use["input"]) == ("a", {})
    assert outcome["tool_use_id"] == use["id"]


def test_results_without_ids_go_to_the_calls_in_their_order_or_of_their_name() -> None:
    calls = [{"function": {"name": name, "arguments": "{}"}} for name in ("a", "b", "c")]
    named = RESULT | {"name": "c"}
    answer, *results = translated({"role": "assistant", "tool_calls": calls}, named, RESULT, RESULT)
    ids = [use["id"] for use in answer["content"]]
    found = [result["content"][0]["tool_use_id"] for result in results]
    assert found == [ids[2], ids[0], ids[1]]


def test_the_oldest_spelling_of_a_call_and_a_call_that_was_cut_off() -> None:
    older = {"role": "assistant", "content": None, "function_call": {"name": "a", "arguments": '{"x": 1'}}
    answer, _ = translated(older, {"role": "function", "name": "a", "content": "ok"})
    assert answer["content"][0]["input"] == {"__unparsedToolInput": {"raw": '{"x": 1', "len": 7}}


@pytest.mark.parametrize("route", ["chat/completions", "completions"])
def test_values_that_ask_for_nothing_are_taken(server: Server, route: str) -> None:
    nothing: dict[str, Any] = {"stop": [""], "top_p": 0, "top_k": -1, "max_tokens": -1, "stream": None}
    assert post(server, route, **nothing, logprobs=False, top_logprobs=0).status_code == 200
    assert server.scheduler.requests[0].max_tokens > 500, "-1 bounds nothing"
    assert post(server, route, stop=None, seed=-1, max_tokens=0).json()["choices"][0]["finish_reason"] == (
        "length"
    )
