"""Mistral's two forms of calls: heads, and the lists of JSON that Nemo and 7B v0.3 write."""

import json
from typing import Any

import pytest

from pensieve.api.formats.answer_format import AnswerFormat
from pensieve.api.formats.tool_calls.template_tools import template_tool
from pensieve.api.grammar.grammar_cache import GrammarCache, GrammarKey
from pensieve.api.grammar.vocabulary import make_vocabulary
from pensieve.api.schema import Tool

from ...output.parsing import parse, shape
from .known_formats import tool_format

FORMAT = tool_format("mistral")
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
TOOLS = (Tool(name="read", input_schema=SCHEMA), Tool(name="list", input_schema=SCHEMA))
INPUT = {"path": "read[ARGS]{} a"}
ID = {"id": "a1B2c3D4e"}


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "arguments": INPUT, **more}


def takes(text: str, tags: dict[str, int]) -> bool:
    bytes_of = [bytes([byte]) for byte in range(256)] + [b"<end>", b"[TOOL_CALLS]"]
    vocabulary = make_vocabulary(bytes_of, {"<end>": 256, **tags}, {256})
    assert vocabulary is not None
    matcher = GrammarCache(vocabulary).compile(GrammarKey(TOOLS, FORMAT, None)).begin()
    start = [tags[FORMAT.start]] if tags else list(FORMAT.start.encode())
    tokens = start + list(text.encode())
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


@pytest.mark.parametrize("tags", [{}, {"[TOOL_CALLS]": 257}], ids=["in letters", "a token of its own"])
@pytest.mark.parametrize(
    "calls", [[entry("read", **ID)], [entry("read")], [entry("read"), entry("list", **ID)]]
)
def test_a_list_of_json_calls_is_allowed_and_read(calls: list[Any], tags: dict[str, int]) -> None:
    """Older models were made to write heads, of which they know nothing."""
    text = json.dumps(calls)
    assert takes(text, tags)
    assert takes(f" {text}", tags)
    reading = AnswerFormat(tool_format=FORMAT, tools=[template_tool(tool) for tool in TOOLS])
    for size in (1, 1000):
        answer, events = parse(FORMAT.start + text, reading, size)
        assert shape(events) == [(call["name"], INPUT) for call in calls]
        assert answer.results == ["ok"]


def test_a_list_conforms_to_the_schemas() -> None:
    assert not takes(json.dumps([{"name": "read", "arguments": {}}]), {})
    assert not takes(json.dumps([entry("write")]), {})
    assert not takes("[]", {})
    assert not takes(json.dumps([entry("read")])[:-1], {})


def test_heads_are_allowed_as_before() -> None:
    assert takes('read[ARGS]{"path": "a"}', {})
