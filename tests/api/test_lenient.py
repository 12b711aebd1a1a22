"""Spellings that the original APIs take, or that clients send all the same: read by their plain meaning."""

import json
from typing import Any

import pytest

from pensieve.api.body import parse_body
from pensieve.api.bounded_json import without_lone_surrogates
from pensieve.api.lenient import call_input, tool_choice_form, tool_form
from pensieve.api.schema import MessagesRequest

from .conftest import Server
from .test_errors import BODY

MANY = f'{{"a": [{"[]," * 300_001}1]}}'  # values: reading them would stop every stream for 0.3 s
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize(
    "fields",
    [
        {"top_p": 0},
        {"top_k": -1, "temperature": 0.5},
        {"stop_sequences": [""]},
        {"stop_sequences": None, "stream": None, "system": None, "tools": None, "thinking": None},
        {"messages": [{"role": "user", "content": None}, {"role": "user", "content": "Hi"}]},
        {"model": "anthropic/claude-opus-5-5"},
        {"model": "Tiny-Model-4bit:latest"},
        {"model": "openai/Tiny-Model-4bit"},
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": SCHEMA}}]},
    ],
    ids=str,
)
def test_a_messages_request_may_spell_it_so(server: Server, fields: dict[str, Any]) -> None:
    newest = {"anthropic-version": "2026-10-21", "authorization": "Bearer any"}
    response = server.http().post("/v1/messages/", json=BODY | fields, headers=newest)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("is_stream", [False, True])
def test_max_tokens_0_computes_the_prompt_and_answers_with_nothing(server: Server, is_stream: bool) -> None:
    server.scheduler.play(server.script("Hello", num_cached=3))
    response = server.http().post("/v1/messages", json=BODY | {"max_tokens": 0, "stream": is_stream})
    assert '"stop_reason":"max_tokens"' in response.text
    assert '"output_tokens":0' in response.text
    assert '"cache_read_input_tokens":3' in response.text
    assert "text_delta" not in response.text
    assert server.scheduler.requests[0].max_tokens == 1


def test_a_call_in_history_may_lack_its_input() -> None:
    call = {"type": "tool_use", "id": "t", "name": "a"}
    body = BODY | {"messages": [{"role": "assistant", "content": [call]}, BODY["messages"][0]]}
    block: Any = MessagesRequest.model_validate(body).messages[0].content[0]
    assert block.input == {}


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        (r"a\ud800b", r"a\ufffdb"),
        (r"\udc00", r"\ufffd"),
        (r"\ud83d\ude00", r"\ud83d\ude00"),
        (r"\ud83d\ud83d\ude00", r"\ufffd\ud83d\ude00"),
        (r"\\ud800 \\\ud800", r"\\ud800 \\\ufffd"),
        (r"\u00e9 \n \"", r"\u00e9 \n \""),
    ],
)
def test_surrogates_without_a_partner_become_the_replacement_character(text: str, repaired: str) -> None:
    assert without_lone_surrogates(text.encode()) == repaired.replace(r"\ufffd", "\ufffd").encode()
    body = parse_body(json.dumps(BODY).replace("Hi", text).encode(), MessagesRequest)
    body.messages[0].content[0].model_dump_json()  # can be written as UTF-8


def test_a_byte_order_mark_before_the_body_is_skipped() -> None:
    assert parse_body(b"\xef\xbb\xbf" + json.dumps(BODY).encode(), MessagesRequest).max_tokens == 9


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"a": 1}, {"a": 1}),
        ('{"a": 1}', {"a": 1}),
        ('{"a": "\\ud800"}', {"a": "\ufffd"}),
        (None, {}),
        ("", {}),
        ([], {}),
        ("null", {}),
        ('{"a": 1', {"__unparsedToolInput": {"raw": '{"a": 1', "len": 7}}),
        ("[1]", {"__unparsedToolInput": {"raw": "[1]", "len": 3}}),
        (MANY, {"__unparsedToolInput": {"raw": MANY, "len": len(MANY)}}),
        ([1], {"__unparsedToolInput": {"raw": "[1]", "len": 3}}),
    ],
)
def test_a_calls_arguments_are_read_in_every_form(arguments: Any, expected: dict[str, Any]) -> None:
    assert call_input(arguments) == expected


def test_arguments_that_are_nested_too_deeply_stay_text() -> None:
    assert "__unparsedToolInput" in call_input('{"a": ' + "[" * 900 + "]" * 900 + "}")


@pytest.mark.parametrize(
    "tool",
    [
        {"name": "a", "input_schema": SCHEMA},
        {"type": "custom", "name": "a", "input_schema": SCHEMA},
        {"name": "a", "parameters": SCHEMA},
        {"type": "function", "name": "a", "parameters": SCHEMA},
        {"type": "function", "function": {"name": "a", "parameters": SCHEMA}},
        {"function": {"name": "a", "parameters": SCHEMA}},
        {"name": "a", "inputSchema": SCHEMA},
    ],
)
def test_a_tool_is_read_in_every_form(tool: Any) -> None:
    found = tool_form(tool)
    assert (found["name"], found["input_schema"]) == ("a", SCHEMA)


@pytest.mark.parametrize("schema", [None, True])
def test_a_tool_without_a_schema_takes_any_arguments(schema: Any) -> None:
    assert tool_form({"name": "a", "parameters": schema})["input_schema"]["type"] == "object"


@pytest.mark.parametrize(
    ("choice", "kind", "name"),
    [
        ("auto", "auto", None),
        ("required", "any", None),
        ("any", "any", None),
        ({"type": "required"}, "any", None),
        ({"type": "tool", "name": "a"}, "tool", "a"),
        ({"type": "function", "name": "a"}, "tool", "a"),
        ({"type": "function", "function": {"name": "a"}}, "tool", "a"),
        ({"function": {"name": "a"}}, "tool", "a"),
    ],
)
def test_a_tool_choice_is_read_in_every_spelling(choice: Any, kind: str, name: str | None) -> None:
    found = tool_choice_form(choice)
    assert (found["type"], found.get("name")) == (kind, name)


def test_a_choice_among_some_of_the_tools_names_them() -> None:
    tools = [{"type": "function", "name": "a"}, {"type": "function", "function": {"name": "b"}}]
    for choice in (
        {"type": "allowed_tools", "mode": "required", "tools": tools},
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": tools}},
    ):
        assert tool_choice_form(choice) == {"type": "any", "names": ["a", "b"]}


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("bash_20250124", {"restart": True}),
        ("bash_20241022", {"command": "ls"}),
        ("text_editor_20250124", {"command": "undo_edit", "path": "/a"}),
        ("text_editor_20250728", {"command": "insert", "path": "/a", "insert_line": 0, "insert_text": "b"}),
        ("memory_20250818", {"command": "rename", "old_path": "/memories/a", "new_path": "/memories/b"}),
    ],
)
def test_public_tools_have_their_schemas(kind: str, arguments: dict[str, Any]) -> None:
    """A request with a tool that its client runs was refused as if the server had to run it."""
    sent = {"type": kind, "name": "own_name", "cache_control": {"type": "ephemeral"}}
    read = MessagesRequest.model_validate(BODY | {"tools": [sent]})
    (tool,) = read.tools or []
    assert (tool.name, bool(tool.description)) == ("own_name", True)
    assert arguments.keys() <= tool.input_schema["properties"].keys()
    assert set(tool.input_schema.get("required", ())) <= arguments.keys()
    commands = tool.input_schema["properties"]["command"].get("enum", [arguments.get("command")])
    assert arguments.get("command") in commands


@pytest.mark.parametrize("kind", ["text_editor_20250429", "memory_2025", "computer_20250124"])
def test_only_known_types_are_public_tools(kind: str) -> None:
    """The newer editor cannot undo; a computer's tool needs pictures."""
    if kind.startswith("text_editor"):
        assert "undo_edit" not in tool_form({"type": kind})["input_schema"]["properties"]["command"]["enum"]
    else:
        with pytest.raises(ValueError, match="is not supported"):
            tool_form({"type": kind, "name": "x"})
