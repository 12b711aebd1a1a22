"""Calls without the tags of their format: where they end an answer they are calls, else text."""

from typing import Any

import pytest

from pensieve.api.formats.answer_format import AnswerFormat
from pensieve.api.formats.output_events import TextDelta
from pensieve.api.formats.tool_calls.plain_format import plain_format
from pensieve.api.output import untagged_calls
from pensieve.api.output.untagged_calls import MAX_HEAD, UntaggedCalls

from .parsing import parse, shape

BASH_SCHEMA = {"type": "object", "required": ["command"]}
TOOLS: Any = [
    {"type": "function", "function": {"name": "Bash", "parameters": BASH_SCHEMA}},
    {"type": "function", "function": {"name": "Read"}},
]
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
        ('{"name": "Bash", "id": "1", "arguments": "{\\"command\\": 1}"}', [("Bash", {"command": 1})]),
        (
            f"```json\n{CALL}\n```\nAn example:\n```\n{READ}\n```\nNow I run it.\n{CALL}",
            [
                TextDelta(f"```json\n{CALL}\n```\nAn example:\n```\n{READ}\n```\nNow I run it."),
                BASH,
            ],
        ),
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
        '{"name": "Bash", "description": "Runs.", "input_schema": {"type": "object"}}',
        '{"name": "Bash", "kind": "tool"}',
        '{"name": "Bash"}',
        '{"name": "Bash", "arguments": {"cmd": "ls"}}',
        '{"name": "Bash", "arguments": "ls"}',
        '{"name": "Bash", "arguments": {"command": "ls"}, "input": {}}',
        f"A call looks so:\n\n```json\n{CALL}\n```",
        f"```json\n// a call\n{CALL}\n```",
    ],
)
def test_what_goes_on_or_calls_no_tool_is_text(text: str, size: int) -> None:
    assert shape(parse(text, FORMAT, size)[1]) == [TextDelta(text)]


def test_a_call_with_its_tags_leaves_others_text() -> None:
    text = f"{CALL}\n<tool_call>\n{READ}\n</tool_call>"
    assert shape(parse(text, FORMAT)[1]) == [TextDelta(CALL), ("Read", {})]
    text = f"<tool_call>\n{READ}\n</tool_call>\n{CALL}"
    assert shape(parse(text, FORMAT)[1]) == [("Read", {}), TextDelta(CALL)]


def held_most(text: str, size: int) -> int:
    """Return the most characters that are held back while the text comes."""
    calls, num_held, most = UntaggedCalls(FORMAT.untagged_tools), 0, 0
    for start in range(0, len(text), size):
        part = text[start : start + size]
        num_held += len(part) - len(calls.add(part))
        most = max(most, num_held)
    return most


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("\n\n\n\n" * 1000, 0),
        ("```json\n[1]", 8),
        ("```json" + "\n" * 4000, MAX_HEAD),
        ("<" + "a" * 4000, MAX_HEAD),
        ('{"name": "Bash", "description": "Runs."' + " " * 4000, 30),
        (CALL + " " * 4000, MAX_HEAD + len(CALL)),
        (CALL + "</" + "a" * 4000, MAX_HEAD + len(CALL)),
    ],
)
def test_text_is_held_no_longer_than_it_may_be_a_call(text: str, most: int) -> None:
    assert held_most(text, 1) <= most


class Counted:
    """A pattern that counts the characters that it may look at."""

    def __init__(self, pattern: Any, counts: list[int]) -> None:
        self._pattern, self._counts = pattern, counts

    def __getattr__(self, name: str) -> Any:
        def search(text: str, start: int = 0, end: int = 10**9) -> Any:
            self._counts.append(min(end, len(text)) - start)
            return getattr(self._pattern, name)(text, start, end)

        return search


@pytest.mark.parametrize(
    "token",
    [
        "\n\n\n\n",
        "```\n",
        "<aa",
        "<a>\n",
        "{ ",
        '{"name": ',
        f"{READ}\n",
        f"```\n{READ}\n```\n",
        "words: ",
        "\n`",
    ],
)
def test_work_grows_with_the_text(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    for name in ("HEAD", "PART_OF_HEAD", "CLOSERS", "PART_OF_CLOSER", "LINES"):
        monkeypatch.setattr(untagged_calls, name, Counted(getattr(untagged_calls, name), counts))
    work = []
    for num_tokens in (1000, 8000):
        counts.clear()
        held_most(token * num_tokens, len(token))
        work.append(sum(counts))
    assert work[1] <= 8.1 * work[0]
    assert max(counts) <= MAX_HEAD + len(token)
