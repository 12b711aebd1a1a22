"""What the SDKs' users ask for, they get, even of a model that emits noise."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel

from ...budget import trials
from ...schemas import CLIENT, SCHEMAS, record
from ..live import LiveServer
from .hostile_schemas import HOSTILE, LOOSENED

USER: Any = [{"role": "user", "content": "Say something."}]
NAMES = ("todo", "bounds", "tagged", "tree")
TOOLS: Any = [{"name": name, "description": name, "input_schema": SCHEMAS[name]} for name in NAMES]
FUNCTIONS: Any = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMAS[name]}} for name in NAMES
]
ANSWER = record(
    "mood score",
    mood={"enum": ["good", "bad"]},
    score={"type": "integer", "minimum": 1, "maximum": 9},
    why={"type": "string", "maxLength": 10},
)


class Review(BaseModel):
    """An answer as users of the SDKs' helpers describe it; Anthropic's leaves out bounds."""

    verdict: Literal["keep", "drop"]
    stars: Literal[1, 2, 3]
    tags: list[Literal["a", "b"]]


@pytest.fixture
def server(shared: LiveServer) -> Iterator[LiveServer]:
    with ExitStack() as clients:
        shared.clients = clients
        yield shared


def noise(seed: int) -> dict[str, int]:
    return {"seed": seed}


def call(server: LiveServer, seed: int, max_tokens: int, tools: Any, choice: dict[str, str]) -> Any:
    """Have one tool called; returns the call, held against its schema, None where it was cut off."""
    answer = server.anthropic().messages.create(
        model="claude-x",
        max_tokens=max_tokens,
        messages=USER,
        tools=tools,
        tool_choice=choice | {"disable_parallel_tool_use": True},
        extra_body=noise(seed),
    )
    if answer.stop_reason != "tool_use":
        return None
    (made,) = [block for block in answer.content if block.type == "tool_use"]
    assert answer.content[0] == made or choice["type"] == "any"
    jsonschema.validate(made.input, SCHEMAS[made.name])
    return made


@pytest.mark.parametrize("choice", [{"type": "any"}, *({"type": "tool", "name": name} for name in NAMES)])
def test_a_tool_that_must_be_called_is_called_as_its_schema_says(
    server: LiveServer, choice: dict[str, str]
) -> None:
    for seed in range(trials(1, 3)):
        made = call(server, seed, 3000, TOOLS, choice)
        assert made.name == choice.get("name", made.name)


def test_a_streamed_call_is_the_same_call(server: LiveServer) -> None:
    settings: Any = {"model": "claude-x", "max_tokens": 3000, "messages": USER, "tools": TOOLS}
    settings |= {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}, "extra_body": noise(5)}
    whole = server.anthropic().messages.create(**settings)
    with server.anthropic().messages.stream(**settings) as stream:
        streamed = stream.get_final_message()
    parts = [
        [(block.name, block.input) for block in answer.content if block.type == "tool_use"]
        for answer in (whole, streamed)
    ]
    assert len(parts[0]) == 1
    assert parts[0] == parts[1]


@pytest.mark.slow
def test_thirty_tools_of_all_kinds_at_once(server: LiveServer) -> None:
    """As a client with many servers sends them, with descriptions, at once with what it sent before."""
    tools: Any = [
        {"name": name, "description": "x" * 50, "input_schema": schema} for name, schema in SCHEMAS.items()
    ]
    made = [call(server, seed, 1000, tools, {"type": "any"}) for seed in range(trials(2, 4))]
    assert any(made), "not all are cut off"


def test_an_answer_conforms_to_output_config(server: LiveServer) -> None:
    wanted: Any = {"format": {"type": "json_schema", "schema": ANSWER}}
    for seed in range(trials(2, 5)):
        answer = server.anthropic().messages.create(
            model="claude-x", max_tokens=500, messages=USER, output_config=wanted, extra_body=noise(seed)
        )
        assert answer.stop_reason == "end_turn"
        (block,) = answer.content
        assert block.type == "text"
        jsonschema.validate(json.loads(block.text), ANSWER)


def test_an_answer_with_tools_is_the_value_or_calls(server: LiveServer) -> None:
    wanted: Any = {"format": {"type": "json_schema", "schema": ANSWER}}
    kinds: set[str] = set()
    for seed in range(200):
        if len(kinds) > 1:
            break
        answer = server.anthropic().messages.create(
            model="claude-x",
            max_tokens=300,
            messages=[{"role": "user", "content": f"{seed}"}],
            tools=TOOLS[1:2],
            output_config=wanted,
            extra_body=noise(seed),
        )
        kinds |= {block.type for block in answer.content}
        for block in answer.content:
            if block.type == "text" and answer.stop_reason == "end_turn":
                jsonschema.validate(json.loads(block.text), ANSWER)
            elif block.type == "tool_use" and answer.stop_reason == "tool_use":
                jsonschema.validate(block.input, SCHEMAS[block.name])
    assert kinds == {"text", "tool_use"}


def test_anthropics_parse_helper_gets_its_object(server: LiveServer) -> None:
    answer = server.anthropic().messages.parse(
        model="claude-x", max_tokens=500, messages=USER, output_format=Review, extra_body=noise(1)
    )
    assert isinstance(answer.parsed_output, Review)


@pytest.mark.parametrize("name", [None, *NAMES])
def test_openais_tool_choice_is_honoured(server: LiveServer, name: str | None) -> None:
    choice: Any = {"type": "function", "function": {"name": name}} if name else "required"
    completion = server.openai().chat.completions.create(
        model="claude-x",
        messages=USER,
        tools=FUNCTIONS,
        tool_choice=choice,
        parallel_tool_calls=False,
        max_completion_tokens=3000,
        seed=3,
    )
    (chosen,) = completion.choices
    assert chosen.finish_reason == "tool_calls"
    (call,) = chosen.message.tool_calls
    assert call.type == "function"
    assert name in (None, call.function.name)
    jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


def test_openais_response_format_is_honoured(server: LiveServer) -> None:
    client = server.openai()
    named = {"name": "answer", "schema": ANSWER, "strict": True}
    for seed in range(trials(2, 4)):
        completion = client.chat.completions.create(
            model="claude-x",
            messages=USER,
            response_format={"type": "json_schema", "json_schema": named},
            max_completion_tokens=500,
            seed=seed,
        )
        assert completion.choices[0].finish_reason == "stop"
        jsonschema.validate(json.loads(completion.choices[0].message.content or ""), ANSWER)


def test_a_json_object_is_an_object_or_cut_off(server: LiveServer) -> None:
    ended = 0
    for seed in range(trials(4, 8)):
        completion = server.openai().chat.completions.create(
            model="claude-x",
            messages=USER,
            response_format={"type": "json_object"},
            max_completion_tokens=1500,
            seed=seed,
        )
        if completion.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(completion.choices[0].message.content or ""), dict)
            ended += 1
    assert ended > trials(0, 3)


def test_openais_parse_helper_gets_its_object(server: LiveServer) -> None:
    completion = server.openai().chat.completions.parse(
        model="claude-x", messages=USER, response_format=Review, max_completion_tokens=500, seed=2
    )
    assert isinstance(completion.choices[0].message.parsed, Review)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_is_loosened_or_refused_while_others_are_served(
    server: LiveServer, name: str
) -> None:
    num_seen: list[int] = []

    def stream() -> None:
        with server.anthropic().messages.stream(
            model="claude-x", max_tokens=60, messages=USER, tools=TOOLS, extra_body=noise(1)
        ) as events:
            num_seen.append(sum(1 for _ in events))

    neighbour = threading.Thread(target=stream)
    neighbour.start()
    wanted = {"format": {"type": "json_schema", "schema": HOSTILE[name]}}
    body = {"model": "claude-x", "max_tokens": 10, "messages": USER, "output_config": wanted}
    answer = server.http().post("/v1/messages", json=body)
    print(f"{name}: {answer.elapsed.total_seconds() * 1000:.0f} ms, {answer.text[:200]}")
    neighbour.join()
    assert num_seen[0] > 3
    assert answer.status_code == (200 if name in LOOSENED else 400)
    if answer.status_code == 400:
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert re.search("schema|too long", answer.json()["error"]["message"])


@pytest.mark.parametrize(
    ("name", "status"),
    [("too deep", 200), ("too many properties", 400), ("too many values", 400), ("too long", 400)],
)
def test_a_tool_too_large_to_be_compiled_is_kept_to_its_name(
    server: LiveServer, name: str, status: int
) -> None:
    """One with a schema that is longer than the context is refused for that."""
    tools = [{"name": "t", "input_schema": record(a=HOSTILE[name])}]
    body = {"model": "claude-x", "max_tokens": 10, "messages": USER, "tools": tools}
    answer = server.http().post("/v1/messages", json=body)
    print(f"{name}: {answer.elapsed.total_seconds() * 1000:.0f} ms")
    assert answer.status_code == status
    assert status == 200 or "too long" in answer.json()["error"]["message"]


def test_a_tool_with_a_rule_too_many_can_be_called_all_the_same(server: LiveServer) -> None:
    odd: dict[str, Any] = {
        "a": {"type": "string", "pattern": "^(?=a)", "maxLength": 5},
        "b": {"not": {"type": "string"}, "type": "boolean"},
        "c": {"$ref": "#/$defs/none"},
    }
    for name, schema in odd.items():
        tools: Any = [{"name": "odd", "input_schema": record(**{name: schema})}, *TOOLS]
        answer = server.anthropic().messages.create(
            model="claude-x",
            max_tokens=1500,
            messages=USER,
            tools=tools,
            tool_choice={"type": "tool", "name": "odd", "disable_parallel_tool_use": True},
            extra_body=noise(1),
        )
        assert answer.content[0].type == "tool_use" or answer.stop_reason == "max_tokens"


def test_the_end_of_a_prefilled_answer_cannot_be_kept_to_a_schema(server: LiveServer) -> None:
    wanted = {"format": {"type": "json_schema", "schema": ANSWER}}
    messages = [*USER, {"role": "assistant", "content": "{"}]
    body = {"model": "claude-x", "max_tokens": 10, "messages": messages, "output_config": wanted}
    answer = server.http().post("/v1/messages", json=body)
    assert answer.status_code == 400
    assert "last message" in answer.json()["error"]["message"]


def test_the_clients_own_tools_are_all_taken_as_they_are(server: LiveServer) -> None:
    for name, schema in [*CLIENT.items()][:: trials(3, 1)]:
        tools: Any = [{"name": name, "input_schema": schema}]
        answer = server.anthropic().messages.create(
            model="claude-x",
            max_tokens=3000,
            messages=USER,
            tools=tools,
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
            extra_body=noise(4),
        )
        if answer.stop_reason == "tool_use":
            (call,) = [block for block in answer.content if block.type == "tool_use"]
            jsonschema.validate(call.input, schema)
