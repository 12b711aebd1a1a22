"""The messages routes through the Anthropic SDK, over a real socket."""

import json
from typing import Any

import pytest
from anthropic.types import Message, MessageParam

from pensieve.api.formats.thinking_signature import seal
from pensieve.engine.step import SamplingParams

from ..fakes import ByteTokenizer, FakeModel
from .conftest import Server, StartServer
from .exchange import BASH, CALL, HELLO, contents


def test_a_whole_message_has_text_usage_and_stop_reason(server: Server) -> None:
    server.scheduler.play(server.script("Hi there", num_cached=10))
    message = server.sdk().messages.create(model="claude-opus-5-5", max_tokens=100, messages=HELLO)
    assert contents(message) == [{"type": "text", "text": "Hi there"}]
    assert message.model == "claude-opus-5-5"
    assert message.stop_reason == "end_turn"
    assert message.id.startswith("msg_")
    prompt = server.scheduler.requests[0].prompt
    assert message.usage.input_tokens == len(prompt) - 10
    assert message.usage.cache_read_input_tokens == 10
    assert message.usage.cache_creation_input_tokens == 0
    assert message.usage.output_tokens == len("Hi there") + 1


def test_a_stream_gives_the_same_message_as_the_whole(server: Server) -> None:
    server.scheduler.play(server.script("Grüße 😀\x00 end", num_cached=4))
    whole = server.sdk().messages.create(model="default", max_tokens=100, messages=HELLO)
    with server.sdk().messages.stream(model="default", max_tokens=100, messages=HELLO) as stream:
        text = "".join(stream.text_stream)
        streamed = stream.get_final_message()
    assert text == "Grüße 😀\x00 end"
    assert contents(streamed) == contents(whole) == [{"type": "text", "text": text}]
    assert (streamed.stop_reason, streamed.usage) == (whole.stop_reason, whole.usage)


def test_the_wire_of_a_stream_has_event_lines_in_order(server: Server) -> None:
    server.scheduler.play(server.script("Hi"))
    body = {"model": "default", "max_tokens": 9, "messages": HELLO, "stream": True}
    response = server.http().post("/v1/messages?beta=true", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["request-id"].startswith("req_")
    events = [event.split("\n") for event in response.text.strip().split("\n\n")]
    names = [name.removeprefix("event: ") for name, _ in events]
    assert names == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert [json.loads(data.removeprefix("data: "))["type"] for _, data in events] == names


def test_a_stop_sequence_ends_the_answer_across_tokens(server: Server) -> None:
    server.scheduler.play(server.script("one two STOP three", size=1, hangs=True))
    message = server.sdk().messages.create(
        model="default", max_tokens=500, messages=HELLO, stop_sequences=["never", "STOP"]
    )
    assert message.stop_reason == "stop_sequence"
    assert message.stop_sequence == "STOP"
    assert contents(message) == [{"type": "text", "text": "one two "}]
    assert server.scheduler.token_streams[0].was_aborted


def test_max_tokens_is_a_stop_reason(server: Server) -> None:
    server.scheduler.play(server.script("far too long"))
    message = server.sdk().messages.create(model="default", max_tokens=1, messages=HELLO)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 1)


def test_max_tokens_is_cut_to_the_context(start_server: StartServer) -> None:
    server = start_server(model=FakeModel(max_context=200))
    server.sdk().messages.create(model="default", max_tokens=128_000, messages=HELLO, timeout=9)
    request = server.scheduler.requests[0]
    assert request.max_tokens == 200 - len(request.prompt)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("All done", {}, "end_turn"),
        ("All done", {"max_tokens": 5}, "max_tokens"),
        ("All done" * 50, {"max_tokens": 5000}, "model_context_window_exceeded"),
        ("All done", {"stop_sequences": ["ll d"]}, "stop_sequence"),
        (CALL, {}, "tool_use"),
        (CALL, {"max_tokens": 45}, "max_tokens"),
        (f"{CALL}, I think so", {"max_tokens": 62}, "max_tokens"),
        (f"<think>{CALL}</think>", {}, "end_turn"),
        ("", {}, "end_turn"),
    ],
)
def test_every_stop_reason(
    start_server: StartServer, stream: bool, text: str, options: dict[str, Any], reason: str
) -> None:
    server = start_server(tokenizer=ByteTokenizer(thinks=True), model=FakeModel(max_context=500))
    server.scheduler.play(server.script(text, num_cached=7))
    fields: dict[str, Any] = {"max_tokens": 200, "tools": [BASH]} | options
    if stream:
        with server.sdk().messages.stream(model="default", messages=HELLO, **fields) as events:
            message: Message = events.get_final_message()
    else:
        message = server.sdk().messages.create(model="default", messages=HELLO, **fields)
    assert message.stop_reason == reason
    assert message.stop_sequence == ("ll d" if reason == "stop_sequence" else None)
    request, usage = server.scheduler.requests[0], message.usage
    assert usage.cache_read_input_tokens == 7
    assert usage.input_tokens + 7 + (usage.cache_creation_input_tokens or 0) == len(request.prompt)
    counted = server.sdk().messages.count_tokens(model="default", messages=HELLO, tools=[BASH])
    assert counted.input_tokens == len(request.prompt)
    if reason in ("max_tokens", "model_context_window_exceeded"):
        assert usage.output_tokens == request.max_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_does_not_fit_is_refused_before_the_stream(
    start_server: StartServer, stream: bool
) -> None:
    server = start_server(model=FakeModel(max_context=50))
    body = {"model": "default", "max_tokens": 9, "stream": stream}
    body |= {"messages": [{"role": "user", "content": "x" * 100}]}
    response = server.http().post("/v1/messages", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    num_tokens = server.sdk().messages.count_tokens(
        model="default", messages=[{"role": "user", "content": "x" * 100}]
    )
    assert error["message"] == f"prompt is too long: {num_tokens.input_tokens} tokens > 49 maximum"
    assert not server.scheduler.requests


def test_an_empty_answer_has_no_blocks(server: Server) -> None:
    message = server.sdk().messages.create(model="default", max_tokens=9, messages=HELLO)
    assert (message.content, message.stop_reason) == ([], "end_turn")


def test_thoughts_are_a_block_of_their_own(start_server: StartServer) -> None:
    server = start_server(tokenizer=ByteTokenizer(thinks=True))
    server.scheduler.play(server.script("<think>\nHm.\n</think>\n\nYes."))
    with server.sdk().messages.stream(model="default", max_tokens=99, messages=HELLO) as stream:
        streamed = stream.get_final_message()
    whole = server.sdk().messages.create(model="default", max_tokens=99, messages=HELLO)
    assert contents(streamed) == contents(whole)
    for message in (streamed, whole):
        details: Any = message.usage.to_dict()["output_tokens_details"]
        assert 0 < details["thinking_tokens"] < message.usage.output_tokens
    assert contents(whole) == [
        {"type": "thinking", "thinking": "Hm.", "signature": "unsigned"},
        {"type": "text", "text": "Yes."},
    ]


def test_omitted_thoughts_leave_an_empty_block_that_brings_them_back(start_server: StartServer) -> None:
    server = start_server(tokenizer=ByteTokenizer(thinks=True))
    server.scheduler.play(server.script("<think>\nHm.\n</think>\n\nYes."))
    fields: Any = {"model": "default", "max_tokens": 99, "messages": HELLO}
    fields["extra_body"] = {"thinking": {"type": "adaptive", "display": "omitted"}}
    with server.sdk().messages.stream(**fields) as stream:
        assert [event for event in stream if event.type == "thinking"] == []
        streamed = stream.get_final_message()
    whole = server.sdk().messages.create(**fields)
    assert contents(streamed) == contents(whole)
    assert contents(whole)[0] == {"type": "thinking", "thinking": "", "signature": seal("Hm.")}
    turns: Any = [*HELLO, {"role": "assistant", "content": whole.content}, *HELLO]
    server.sdk().messages.create(**fields | {"messages": turns})
    assert "<|im_start|>assistant\n<think>Hm.</think>Yes.<|im_end|>" in server.prompt_text()


def test_sampling_fields_override_the_models_defaults(start_server: StartServer) -> None:
    default = SamplingParams(temperature=0.7, top_p=0.8, top_k=20)
    server = start_server(model=FakeModel(default_sampling=default))
    client = server.sdk()
    client.messages.create(model="default", max_tokens=9, messages=HELLO)
    client.messages.create(
        model="default",
        max_tokens=9,
        messages=HELLO,
        extra_body={"temperature": 0.25, "top_k": 10**9, "min_p": 0.1, "seed": 7},
    )
    unset, set_ = (request.sampling for request in server.scheduler.requests)
    assert (unset.temperature, unset.top_p, unset.top_k) == (0.7, 0.8, 20)
    assert set_ == SamplingParams(temperature=0.25, top_p=0.8, top_k=0, min_p=0.1, seed=7)
    assert unset.seed != 0


def test_penalties_and_bounds_reach_the_scheduler_from_both_apis(server: Server) -> None:
    fields: dict[str, Any] = {
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "logit_bias": {"5": 2, "6": -100},
        "min_tokens": 3,
        "stop_token_ids": [7],
        "seed": 1,
        "temperature": 0,
    }
    body = {"model": "default", "max_tokens": 9, "messages": HELLO}
    for path in ("messages", "chat/completions"):
        assert server.http().post(f"/v1/{path}", json=body | fields).status_code == 200
    other = fields | {"repeat_penalty": 1.1, "logit_bias": [[5, 2], [6, False]]}
    del other["repetition_penalty"]
    assert server.http().post("/v1/messages", json=body | other).status_code == 200
    expected = SamplingParams(
        repetition_penalty=1.1,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        logit_bias=((5, 2.0), (6, -100.0)),
        min_tokens=3,
        seed=1,
    )
    assert [request.sampling for request in server.scheduler.requests] == [expected] * 3
    assert {request.stop_token_ids for request in server.scheduler.requests} == {frozenset({257, 7})}
    server.http().post("/v1/messages", json=body | {"ignore_eos": True})
    assert server.scheduler.requests[-1].stop_token_ids == frozenset()
    assert not server.scheduler.requests[-1].sampling.adjusts


def test_the_session_header_reaches_the_scheduler(server: Server) -> None:
    client = server.sdk(default_headers={"x-claude-code-session-id": "abc"})
    client.messages.create(model="default", max_tokens=9, messages=HELLO)
    assert server.scheduler.requests[0].origin.session == "abc"
    assert server.scheduler.requests[0].stop_token_ids == frozenset({257})


def test_the_scheduler_knows_a_request_by_the_id_that_the_client_gets(server: Server) -> None:
    body = {"model": "default", "max_tokens": 5, "messages": HELLO}
    response = server.http().post("/v1/messages", json=body)
    assert server.scheduler.requests[0].request_id == response.headers["request-id"] != ""


def test_a_last_assistant_message_is_continued(server: Server) -> None:
    messages: list[MessageParam] = [*HELLO, {"role": "assistant", "content": "Once upon"}]
    server.sdk().messages.create(model="default", max_tokens=9, messages=messages)
    assert server.prompt_text().endswith("<|im_start|>assistant\nOnce upon")


def test_count_tokens_counts_the_whole_prompt(server: Server) -> None:
    client = server.sdk()
    parts: Any = {"messages": HELLO, "system": "Be brief.", "tools": [BASH]}
    counted = client.messages.count_tokens(model="claude-any", **parts)
    client.messages.create(model="claude-any", max_tokens=9, **parts)
    assert counted.input_tokens == len(server.scheduler.requests[0].prompt)
