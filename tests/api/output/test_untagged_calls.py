"""Calls without the tags of their format: where they end an answer they are calls, else text."""

from typing import Any

import pytest

from pensieve.api.formats.answer_format import AnswerFormat
from pensieve.api.formats.output_events import TextDelta
from pensieve.api.formats.tool_calls.plain_format import plain_format

from .parsing import parse, shape

TOOLS: Any = [{"type": "function", "function": {"name": name}} for name in ("Bash", "Read")]
FORMAT = AnswerFormat(tool_format=plain_format(), tools=TOOLS)
CALL = '{"name": "Bash", "arguments": {"command": "a <b> ```"}}'
BASH = ("Bash", {"command": "a <b> ```"})
READ = '{\n  "name": "Read",\n  "arguments": {}\n}'


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (CALL, [BASH]),
        (f"```json\n{CALL}\n```", [BASH]),
        (f"I look.\n\n```\n{CALL}\n```\n", [TextDelta("I look."), BASH]),
        (f"<tools>\n  {CALL}\n</tools>", [BASH]),
        (f"```xml\n<response>\n{CALL}\n</response>\n```", [BASH]),
        (f"{CALL}\n{READ}", [BASH, ("Read", {})]),
        (f"```json\n{CALL}\n```\n\n```json\n{READ}\n```", [BASH, ("Read", {})]),
        ('<function=Bash>{"command": "ls"}</function>', [("Bash", {"command": "ls"})]),
        (
            '<function name="Read">\n{}\n</function>\n<function=Read>{}</function>',
            [("Read", {}), ("Read", {})],
        ),
        ('{"name": "Bash", "parameters": {"command": "two\nlines"}}', [("Bash", {"command": "two\nlines"})]),
    ],
)
def test_a_call_that_ends_the_answer_is_a_call(text: str, meaning: list[Any], size: int) -> None:
    parser, events = parse(text, FORMAT, size)
    assert shape(events) == meaning
    assert parser.results == ["repaired"]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{CALL}\n```\nSo it is done.",
        f"So: {CALL}",
        CALL.replace("Bash", "Cash"),
        CALL[:-1],
        CALL.replace('"arguments"', '"args"').replace("{", "{", 1)[:-2] + "]",
        '{"name": "Bash", "description": "Runs."}\nand more',
        '```json\n{"name": "x"}\n```',
        "```python\nprint({'name': 1})\n```\n<div>\n{",
        "`{`\n<function=x>\n```\n\n\n",
        f"{CALL}, {CALL}",
    ],
)
def test_what_goes_on_or_calls_no_tool_is_text(text: str, size: int) -> None:
    assert shape(parse(text, FORMAT, size)[1]) == [TextDelta(text)]


def test_a_call_with_its_tags_leaves_others_text() -> None:
    text = f"{CALL}\n<tool_call>\n{READ}\n</tool_call>"
    assert shape(parse(text, FORMAT)[1]) == [TextDelta(CALL), ("Read", {})]
    text = f"<tool_call>\n{READ}\n</tool_call>\n{CALL}"
    assert shape(parse(text, FORMAT)[1]) == [("Read", {}), TextDelta(CALL)]


def test_text_is_held_no_longer_than_it_may_be_a_call() -> None:
    events = parse("```json\n[1]", FORMAT)[1]
    assert events == [TextDelta("```json\n[1]")]
