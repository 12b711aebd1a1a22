"""Formats declared in a line: read and allowed as models write them, with spaces and keys in any order."""

from typing import Any

import pytest

from pensieve.api.formats.answer_format import AnswerFormat
from pensieve.api.formats.output_events import TextDelta
from pensieve.api.formats.tool_calls.declared_formats import DECLARED
from pensieve.api.formats.tool_calls.template_tools import template_tool
from pensieve.api.grammar.grammar_cache import GrammarCache, GrammarKey
from pensieve.api.grammar.vocabulary import Vocabulary
from pensieve.api.schema import Tool

from ...output.test_parser import parse, shape

FORMATS = {(tool_format.syntax.module, tool_format.start): tool_format for tool_format in DECLARED}
PROPERTIES = {"city": {"type": "string"}, "days": {"type": "integer"}}
TOOLS = (
    Tool(name="weather", input_schema={"type": "object", "properties": PROPERTIES, "required": ["city"]}),
    Tool(name="clock", input_schema={"type": "object", "properties": {}}),
)
ONE: list[tuple[str, dict[str, Any]]] = [("weather", {"city": "Rome"})]
TWO: list[tuple[str, dict[str, Any]]] = [("weather", {"city": "Rome", "days": 2}), ("clock", {})]


def hy3(suffix: str, space: str) -> str:
    """Write two calls in Hy3's way."""
    call, sep, key, value = (f"{name}{suffix}>" for name in ("tool_call", "tool_sep", "arg_key", "arg_value"))
    values = "".join(f"<{key}{k}</{key}{space}<{value}{v}</{value}{space}" for k, v in TWO[0][1].items())
    return (
        f"{space}<{call}weather<{sep}{space}{values}</{call}{space}<{call}clock<{sep}{space}</{call}{space}"
    )


def solar(name: str, arguments: str) -> str:
    """Write a call in Solar Open's way."""
    head = f"<|tool_call:begin|>Zx81k<|tool_call:name|>{name}"
    return f"{head}<|tool_call:args|>{arguments}<|tool_call:end|>"


ROME, BOTH = '{"city": "Rome"}', '{"city": "Rome", "days": 2}'
COHERE = '"tool_name": "weather", "parameters": '
LINES = f'\n{{"name": "weather", "arguments": {BOTH}}}\n{{"name": "clock", "arguments": {{}}}}\n'
GRANITE = f' [\n  {{"arguments": {BOTH}, "name": "weather"}},\n\t{{"arguments": {{}}, "name": "clock"}}\n]'
WIDE = '{\n  "name": "weather",\n  "parameters": {\n    "city": "Rome",\n    "days": 2\n  }\n}'
WRITTEN = [  # a format's name and start, the text between its tags, and the calls in it
    ("cohere", "<|START_ACTION|>", f'[\n    {{"tool_call_id": "0", {COHERE}{ROME}}}\n]', ONE),
    (
        "cohere",
        "<|START_ACTION|>",
        f'\n[{{{COHERE}{BOTH}}}, {{"parameters": {{}}, "tool_name":"clock"}}]\n',
        TWO,
    ),
    ("apertus", "<|tools_prefix|>", f'[{{"weather": {ROME}}}]', ONE),
    ("apertus", "<|tools_prefix|>", '[{"weather": {"days": 2, "city": "Rome"}}, {"clock": {}}]', TWO),
    ("tool_calls", "<tool_calls>", f'[{{"name": "weather", "arguments": {ROME}, "id": "toolu_01"}}]', ONE),
    ("tool_calls", "<tool_calls>", LINES, TWO),
    ("phi4", "<|tool_call|>", '[{"name":"weather","arguments":{"city":"Rome"}}]', ONE),
    ("granite", "<|tool_call|>", GRANITE, TWO),
    ("functools", "functools", f'[{{\n  "name": "weather",\n  "arguments": {ROME}\n}}]', ONE),
    ("solar", "<|tool_calls|>", solar("weather", BOTH) + solar("clock", "{}"), TWO),
    ("functionary", "<function=", f"weather>{ROME}", ONE),
    ("hy3", "<tool_calls:opensource>", hy3(":opensource", "\n"), TWO),
    ("hy3", "<tool_calls>", hy3("", ""), TWO),
    ("json_tools", "<tool_call>", f'\n{{"arguments": {ROME}, "name": "weather"}}\n', ONE),
    ("llama3", "", f'{{"name": "weather", "parameters": {ROME}}}', ONE),
    ("llama3", "", f'{{"type": "function", "name": "weather", "parameters": {ROME}}}', ONE),
    ("llama3", "", WIDE + ' ; {"name": "clock", "parameters": {}}', TWO),
]


def test_every_declared_format_has_an_example() -> None:
    assert {(name, start) for name, start, _, _ in WRITTEN} == FORMATS.keys()


@pytest.mark.parametrize(("name", "start", "body", "calls"), WRITTEN)
def test_calls_are_read_and_allowed_as_they_are_written(
    vocabulary: Vocabulary, name: str, start: str, body: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    tool_format = FORMATS[name, start]
    written = f"{start}{body}{tool_format.end}"
    form = AnswerFormat(tool_format=tool_format, tools=[template_tool(tool) for tool in TOOLS])
    for size in (1, 5, 1000):
        answer, events = parse(f"I look. {written}", form, size)
        assert shape(events) == [TextDelta("I look."), *calls]
        assert answer.results == ["ok"]
    matcher = GrammarCache(vocabulary).compile(GrammarKey(TOOLS, tool_format, None)).begin()
    tokens = vocabulary.spell(written.encode())
    assert matcher.validate_tokens(tokens) == len(tokens)
    assert matcher.try_consume_tokens(tokens) == len(tokens)
    assert matcher.is_accepting()


@pytest.mark.parametrize(
    "text",
    ['{"name": "Anna", "parameters": {}}', 'So:\n```json\n{"name": "Anna"}\n```', "import functools as f"],
)
def test_what_names_no_tool_is_text(text: str) -> None:
    for key in (("llama3", ""), ("functools", "functools")):
        form = AnswerFormat(tool_format=FORMATS[key], tools=[template_tool(tool) for tool in TOOLS])
        assert parse(text, form)[1] == [TextDelta(text)]
