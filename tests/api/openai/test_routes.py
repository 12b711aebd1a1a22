"""OpenAI's routes through OpenAI's SDK, over a real socket."""

import json
from typing import Any

import httpx
import openai
import pytest

from pensieve.engine.step import SamplingParams

from ...fakes import ByteTokenizer, FakeModel, Script
from ..conftest import Server, StartServer, wait_until
from ..exchange import CALL
from .exchange import BASH, HELLO, ROUTES, chat, post


def chunks(text: str) -> list[str]:
    """Split a stream's text into its data."""
    return [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]


def test_a_chat_has_text_usage_and_finish_reason(server: Server) -> None:
    server.scheduler.play(server.script("Hi there", num_cached=10))
    completion = chat(server, model="claude-opus-5-5", max_completion_tokens=100)
    choice = completion.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == (
        "assistant",
        "Hi there",
        "stop",
    )
    assert (completion.object, completion.model) == ("chat.completion", "claude-opus-5-5")
    assert choice.message.tool_calls is None
    prompt = server.scheduler.requests[0].prompt
    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(prompt), len("Hi there") + 1)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens == 10


def test_a_stream_gives_the_same_completion_as_the_whole(server: Server) -> None:
    text = f"Grüße 😀\x00 end {CALL}{CALL}"
    server.scheduler.play(server.script(text, num_cached=4))
    whole = chat(server, tools=[BASH])
    arguments: Any = {"model": "default", "messages": HELLO, "tools": [BASH]}
    with server.openai().chat.completions.stream(
        **arguments, stream_options={"include_usage": True}
    ) as stream:
        streamed = stream.get_final_completion()
    first, second = (completion.choices[0] for completion in (whole, streamed))
    assert first.message.content == second.message.content == "Grüße 😀\x00 end"
    assert first.finish_reason == second.finish_reason == "tool_calls"
    calls = [[call.function for call in choice.message.tool_calls or []] for choice in (first, second)]
    assert [(call.name, call.arguments) for call in calls[0]] == [("Bash", '{"command": "ls"}')] * 2
    assert [(call.name, call.arguments) for call in calls[1]] == [("Bash", '{"command": "ls"}')] * 2
    assert streamed.usage == whole.usage


def test_the_wire_of_a_stream_is_data_lines_and_done(server: Server) -> None:
    server.scheduler.play(server.script("Hi"))
    response = post(server, "chat/completions", stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    *data, done = chunks(response.text)
    assert done == "[DONE]"
    parsed = [json.loads(chunk) for chunk in data]
    assert {chunk["object"] for chunk in parsed} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in parsed}) == 1
    assert not any("usage" in chunk for chunk in parsed)
    choices = [chunk["choices"][0] for chunk in parsed]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "Hi"},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]


@pytest.mark.parametrize("route", ROUTES)
def test_a_models_name_may_look_like_a_part_of_a_chunk(server: Server, route: str) -> None:
    server.scheduler.play(server.script("Hi"))
    name = 'claude-"choices":[]'
    *data, _ = chunks(post(server, route, stream=True, model=name).text)
    assert {json.loads(chunk)["model"] for chunk in data} == {name}


@pytest.mark.parametrize("route", ROUTES)
def test_usage_comes_last_where_it_is_asked_for(server: Server, route: str) -> None:
    server.scheduler.play(server.script("Hi", num_cached=2))
    response = post(server, route, stream=True, stream_options={"include_usage": True})
    *before, last = (json.loads(chunk) for chunk in chunks(response.text)[:-1])
    assert {chunk["usage"] for chunk in before} == {None}
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}
    assert last["usage"]["completion_tokens"] == 3


def test_streamed_calls_are_opened_and_filled_under_their_index(server: Server) -> None:
    server.scheduler.play(server.script(CALL + CALL))
    calls = [
        delta.tool_calls[0]
        for chunk in chat(server, tools=[BASH], stream=True)
        if (delta := chunk.choices[0].delta).tool_calls
    ]
    half = len(calls) // 2
    assert half > 3  # the arguments come in fragments
    assert [call.index for call in calls] == [0] * half + [1] * half
    assert [call.id is not None for call in calls] == ([True] + [False] * (half - 1)) * 2
    fragments = [call.function.arguments for call in calls]
    assert (fragments[0], "".join(fragments)) == ("", '{"command": "ls"}' * 2)


def test_a_conversation_with_calls_and_results_reaches_the_template(server: Server) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "Bash", "arguments": '{"command": "ls"}'}}
    messages = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}],
        },
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "List"}, {"type": "text", "text": "files."}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Hm."},
        {"role": "tool", "tool_call_id": "c1", "content": "a.txt"},
        {"role": "system", "content": "It is Monday."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "user", "content": "Go on.", "name": "someone"},
    ]
    chat(server, messages=messages, tools=[BASH])
    text = server.prompt_text()
    assert "\nBe\n\nbrief.\n\nBe kind.<|im_end|>\n" in text
    assert text.endswith(
        "<|im_start|>user\nList\nfiles.<|im_end|>\n<|im_start|>assistant\n<think>Hm.</think>\n"
        '<tool_call>\n{"name": "Bash", "arguments": {"command": "ls"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>tool\na.txt<|im_end|>\n<|im_start|>system\nIt is Monday.<|im_end|>\n"
        "<|im_start|>assistant\nNo.<|im_end|>\n<|im_start|>user\nGo on.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_both_apis_make_the_same_prompt(server: Server) -> None:
    chat(server, messages=[{"role": "system", "content": "Be brief."}, *HELLO], tools=[BASH])
    schema = BASH["function"]["parameters"]
    tool: Any = {"name": "Bash", "description": "Runs a command", "input_schema": schema}
    server.sdk().messages.create(
        model="default",
        max_tokens=9,
        system="Be brief.",
        tools=[tool],
        messages=[{"role": "user", "content": "Hello"}],
    )
    assert server.scheduler.requests[0].prompt == server.scheduler.requests[1].prompt


def test_marks_in_a_chat_are_text(server: Server) -> None:
    chat(server, messages=[{"role": "user", "content": "<|im_end|>"}])
    chat(server, messages=[{"role": "user", "content": ""}])
    counts = [request.prompt.count(257) for request in server.scheduler.requests]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("required", "must be a call of one of the tools"),
        ({"type": "function", "function": {"name": "Bash"}}, "must be a call of the tool Bash"),
        ("none", "without calling a tool"),
    ],
)
def test_tool_choice_is_put_into_words(server: Server, choice: Any, words: str) -> None:
    server.scheduler.play(server.script(CALL))
    completion = chat(server, tools=[BASH], tool_choice=choice)
    assert words in server.prompt_text()
    assert (completion.choices[0].message.tool_calls is None) == (choice == "none")


def test_parallel_calls_can_be_switched_off(server: Server) -> None:
    server.scheduler.play(server.script(CALL + CALL, hangs=True))
    completion = chat(server, tools=[BASH], parallel_tool_calls=False)
    assert len(completion.choices[0].message.tool_calls) == 1
    assert completion.choices[0].message.content is None


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"title": "T"}}}, '{"title": "T"}'),
        ({"type": "json_object"}, '{"type": "object"}'),
    ],
)
def test_a_response_format_is_put_into_words(server: Server, wanted: Any, words: str) -> None:
    chat(server, response_format=wanted)
    assert f"conforms to this JSON schema, and with nothing else: {words}" in server.prompt_text()


def test_thoughts_are_told_apart(start_server: StartServer) -> None:
    server = start_server(tokenizer=ByteTokenizer(thinks=True))
    server.scheduler.play(server.script("<think>\nHm.\n</think>\n\nYes."))
    message = chat(server, reasoning_effort="low").choices[0].message
    assert (message.reasoning_content, message.content) == ("Hm.", "Yes.")
    details = chat(server).usage.completion_tokens_details
    assert details.reasoning_tokens > 0
    deltas = [chunk.choices[0].delta for chunk in chat(server, stream=True)]
    assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == "Hm."
    assert "".join(delta.content or "" for delta in deltas) == "Yes."


def test_a_stop_sequence_ends_the_answer_and_the_work(server: Server) -> None:
    server.scheduler.play(server.script("one two STOP three", size=1, hangs=True))
    choice = chat(server, stop="STOP").choices[0]
    assert (choice.message.content, choice.finish_reason) == ("one two ", "stop")
    assert server.scheduler.token_streams[0].was_aborted
    choice = chat(server, stop=["never", "STOP"]).choices[0]
    assert choice.message.content == "one two "


def test_max_tokens_is_a_finish_reason_and_cut_to_the_context(start_server: StartServer) -> None:
    server = start_server(model=FakeModel(max_context=200))
    server.scheduler.play(server.script("far too long", size=1))
    assert chat(server, max_tokens=1).choices[0].finish_reason == "length"
    chat(server, max_tokens=5, max_completion_tokens=10**6)
    chat(server)
    limits = [request.max_tokens for request in server.scheduler.requests]
    room = 200 - len(server.scheduler.requests[0].prompt)
    assert limits == [1, room, room]


def test_sampling_fields_override_the_models_defaults(start_server: StartServer) -> None:
    default = SamplingParams(temperature=0.7, top_p=0.8, top_k=20)
    server = start_server(model=FakeModel(default_sampling=default))
    chat(server)
    chat(server, temperature=0.25, top_p=0.5, seed=7, extra_body={"top_k": -1, "min_p": 0.1})
    unset, set_ = (request.sampling for request in server.scheduler.requests)
    assert (unset.temperature, unset.top_p, unset.top_k) == (0.7, 0.8, 20)
    assert set_ == SamplingParams(temperature=0.25, top_p=0.5, top_k=0, min_p=0.1, seed=7)


def test_a_failure_in_mid_stream_reaches_the_client(server: Server) -> None:
    server.scheduler.play(server.script("Hi", fails=True))
    with pytest.raises(openai.APIError, match="the engine failed"):
        list(chat(server, stream=True))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
def test_leaving_ends_the_work(server: Server, route: str, stream: bool) -> None:
    server.scheduler.play(Script(hangs=True))
    with pytest.raises(httpx.ReadTimeout):
        post(server, route, timeout_s=1.0, stream=stream)  # sooner, a busy machine has not queued it yet
    wait_until(lambda: server.scheduler.token_streams[0].was_aborted)


def test_both_sdks_read_the_list_of_models(server: Server) -> None:
    entries = server.openai().models.list().data
    assert [entry.id for entry in entries] == [entry.id for entry in server.sdk().models.list().data]
    assert {entry.object for entry in entries} == {"model"}
    assert server.openai().models.retrieve(server.model.name).owned_by == "test-org"


def test_responses_are_counted_by_route(server: Server) -> None:
    chat(server)
    text = server.http().get("/metrics").text
    assert 'pensieve_http_requests_total{method="POST",path="/v1/chat/completions",status="200"}' in text
