"""The Responses API through OpenAI's SDK, over a real socket."""

import json
from typing import Any

import pytest
from pydantic import BaseModel

from ....fakes import ByteTokenizer
from ...conftest import Server, StartServer
from ...exchange import CALL
from .exchange import BASH, events, post, respond


def test_a_response_has_text_usage_and_status(server: Server) -> None:
    server.scheduler.play(server.script("Hi there", num_cached=10))
    response = respond(server, model="claude-opus-5-5", instructions="Be brief.", metadata={"a": "b"})
    assert (response.output_text, response.status, response.object) == ("Hi there", "completed", "response")
    assert (response.model, response.instructions, response.metadata) == (
        "claude-opus-5-5",
        "Be brief.",
        {"a": "b"},
    )
    usage, prompt = response.usage, server.scheduler.requests[0].prompt
    assert (usage.input_tokens, usage.output_tokens) == (len(prompt), len("Hi there") + 1)
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.input_tokens_details.cached_tokens == 10
    assert "<|im_start|>system\nBe brief.<|im_end|>" in server.prompt_text()


def test_a_stream_gives_the_same_response_as_the_whole(start_server: StartServer) -> None:
    server = start_server(tokenizer=ByteTokenizer(thinks=True))
    server.scheduler.play(server.script(f"<think>\nHm.\n</think>\n\nGrüße 😀 end {CALL}{CALL}", num_cached=4))
    whole = respond(server, tools=[BASH])
    with server.openai().responses.stream(model="default", input="Hello", tools=[BASH]) as stream:
        streamed = stream.get_final_response()
    assert [item.type for item in streamed.output] == ["reasoning", "message", *["function_call"] * 2]
    assert [without_ids(item) for item in streamed.output] == [without_ids(item) for item in whole.output]
    assert streamed.output_text == "Grüße 😀 end"
    assert [item.arguments for item in whole.output[2:]] == ['{"command": "ls"}'] * 2
    assert streamed.usage == whole.usage


def without_ids(item: Any) -> dict[str, Any]:
    fields = item.to_dict()
    for part in fields.get("content", []):
        part.pop("parsed", None)  # what the SDK adds
    return {key: fields[key] for key in fields if key not in ("id", "call_id", "parsed_arguments")}


def test_the_events_of_a_stream_are_numbered_and_nested(server: Server) -> None:
    server.scheduler.play(server.script(f"Hi {CALL}", size=100))
    found = events(post(server, stream=True, tools=[BASH]).text)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    kinds = [event["type"].removeprefix("response.") for event in found]
    assert [kind for kind, before in zip(kinds, [None, *kinds], strict=False) if kind != before] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert found[-1]["response"]["output"] == done
    assert found[2]["item"]["content"] == []


def test_a_conversation_with_calls_and_results_reaches_the_template(server: Server) -> None:
    conversation: list[Any] = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "List"}]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm."}],
        },
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Yes.", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "Bash", "arguments": '{"command": "ls"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "a.txt"},
        {"type": "message", "role": "user", "content": "Go on."},
    ]
    respond(server, input=conversation, tools=[BASH], instructions="Be brief.")
    text = server.prompt_text()
    assert "\nBe brief.\n\nBe kind.<|im_end|>\n" in text
    assert text.endswith(
        "<|im_start|>user\nList<|im_end|>\n<|im_start|>assistant\n<think>Hm.</think>Yes.\n"
        '<tool_call>\n{"name": "Bash", "arguments": {"command": "ls"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>tool\na.txt<|im_end|>\n<|im_start|>user\nGo on.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_all_three_apis_make_the_same_prompt(server: Server) -> None:
    respond(server, instructions="Be brief.", tools=[BASH])
    function: Any = {key: value for key, value in BASH.items() if key != "type"}
    server.openai().chat.completions.create(
        model="default",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        tools=[{"type": "function", "function": function}],
    )
    first, second = (request.prompt for request in server.scheduler.requests)
    assert first == second


def test_thoughts_are_items_and_come_back_sealed(start_server: StartServer) -> None:
    server = start_server(tokenizer=ByteTokenizer(thinks=True))
    server.scheduler.play(server.script("<think>\nHm.\n</think>\n\nYes."))
    plain = respond(server, reasoning={"effort": "low"})
    assert [part.text for part in plain.output[0].content] == ["Hm."]
    found = respond(server, reasoning={"summary": "auto"}, include=["reasoning.encrypted_content"])
    thoughts = found.output[0]
    assert ([part.text for part in thoughts.summary], found.output_text) == (["Hm."], "Yes.")
    sealed = {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": thoughts.encrypted_content}
    respond(server, input=[{"role": "user", "content": "Hi"}, sealed, {"role": "user", "content": "So?"}])
    assert "<think>Hm.</think><|im_end|>\n<|im_start|>user\nSo?" in server.prompt_text()
    text = post(server, stream=True, reasoning={"summary": "auto"}).text
    assert "response.reasoning_summary_text.delta" in text


def test_custom_tools_shells_and_namespaces_come_back_as_their_own_items(server: Server) -> None:
    tools: list[Any] = [
        {
            "type": "custom",
            "name": "apply",
            "format": {"type": "grammar", "syntax": "lark", "definition": "G"},
        },
        {"type": "local_shell"},
        {"type": "namespace", "name": "agents", "description": "", "tools": [BASH]},
        {"type": "web_search", "external_web_access": False},
    ]
    calls = [
        ("apply", {"input": "*** Begin\n"}),
        ("local_shell", {"command": ["ls"]}),
        ("agents__Bash", {"command": "ls"}),
    ]
    text = "".join(
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
        for name, arguments in calls
    )
    server.scheduler.play(server.script(text))
    found = respond(server, tools=tools)
    custom, shell, nested = found.output
    assert (custom.type, custom.name, custom.input) == ("custom_tool_call", "apply", "*** Begin\n")
    assert (shell.type, shell.action.command) == ("local_shell_call", ["ls"])
    assert (nested.name, nested.namespace, nested.arguments) == ("Bash", "agents", '{"command": "ls"}')
    assert "lark grammar:\\nG" in server.prompt_text()
    assert "web_search" not in server.prompt_text()
    respond(server, input=[item.to_dict() for item in found.output], tools=tools)
    answered = [line for line in server.prompt_text().split("\n") if line.startswith('{"name"')]
    assert answered == [json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls]


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("required", "must be a call of one of the tools"),
        ({"type": "function", "name": "Bash"}, "must be a call of the tool Bash"),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "Bash"}]},
            "one of",
        ),
        ("none", "without calling a tool"),
    ],
)
def test_tool_choice_is_put_into_words(server: Server, choice: Any, words: str) -> None:
    server.scheduler.play(server.script(CALL))
    respond(server, tools=[BASH], tool_choice=choice)
    assert words in server.prompt_text()


class Answer(BaseModel):
    number: int


def test_a_schema_is_honoured_and_parsed_by_the_sdk(server: Server) -> None:
    server.scheduler.play(server.script('{"number": 5}'))
    parsed = server.openai().responses.parse(model="default", input="Hi", text_format=Answer)
    assert parsed.output_parsed == Answer(number=5)
    assert "conforms to this JSON schema" in server.prompt_text()


def test_logprobs_come_with_the_text(server: Server) -> None:
    server.scheduler.play(server.script("Hi"))
    found = respond(server, top_logprobs=2, include=["message.output_text.logprobs"])
    assert [entry.token for entry in found.output[0].content[0].logprobs] == ["H", "i"]
    streamed = events(post(server, stream=True, top_logprobs=2).text)
    deltas = [event for event in streamed if event["type"] == "response.output_text.delta"]
    assert sum(len(event["logprobs"]) for event in deltas) == 2
