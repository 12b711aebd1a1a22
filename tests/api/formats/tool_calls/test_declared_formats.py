"""Formats declared in a line: read and allowed as models write them, with spaces and keys in any order."""

import random
import re
from typing import Any

import pytest

from pensieve.api.formats.answer_format import AnswerFormat
from pensieve.api.formats.output_events import TextDelta
from pensieve.api.formats.tag_follower import AnswerTags
from pensieve.api.formats.thinking_tags import RECIPIENT, TO_ALL
from pensieve.api.formats.tool_calls.declared_formats import BEFORE_MLX_LM, DECLARED
from pensieve.api.formats.tool_calls.declared_formats import DEEPSEEK_TAGS as TAGS
from pensieve.api.formats.tool_calls.dsml import MARK
from pensieve.api.formats.tool_calls.minimax_m3 import MARK as M3_MARK
from pensieve.api.formats.tool_calls.template_tools import template_tool
from pensieve.api.formats.tool_calls.tool_format import ToolFormat
from pensieve.api.grammar.answer_constraint import AnswerConstraint, ConstraintSpec
from pensieve.api.grammar.grammar_cache import GrammarCache, GrammarKey
from pensieve.api.grammar.vocabulary import Vocabulary, make_vocabulary
from pensieve.api.prompt.round_trip import read_calls
from pensieve.api.schema import Tool

from ...output.parsing import parse, shape
from .known_formats import tool_format
from .test_grammars import draw

ALL = (*BEFORE_MLX_LM, *DECLARED)
FORMATS = {(tool_format.syntax.module, tool_format.start): tool_format for tool_format in ALL}
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


def deepseek(name: str, head: str, arguments: str, end: str) -> str:
    """Write a call in the way of DeepSeek R1, with a head and an end, or V3.1."""
    begin, sep, close = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"  # noqa: RUF001
    return f"{begin}{name}{sep}{head}{arguments}{end}{close}"


def dsml() -> str:
    """Write two calls in DeepSeek's way since V3.2."""
    key = f'<{MARK}parameter name="%s" string="%s">%s</{MARK}parameter>\n'
    values = key % ("city", "true", "Rome") + key % ("days", "false", "2")
    call = f'<{MARK}invoke name="%s">\n%s</{MARK}invoke>\n'
    return "\n" + call % ("weather", values) + call % ("clock", "")


def minimax_m3() -> str:
    """Write two calls in MiniMax M3's way: every tag stands behind a mark."""
    tags = (
        *("<city>Rome", "</city>", "<days>2", "</days>"),
        *("</invoke>\n", '<invoke name="clock">', "</invoke>\n"),
    )
    return f'\n{M3_MARK}<invoke name="weather">' + "".join(f"{M3_MARK}{tag}" for tag in tags)


def muse() -> str:
    """Write a call in Muse Glimmer's way: a message to the tool."""
    call = '<atem:invoke name="weather">\n<atem:parameter name="city">Rome</atem:parameter>\n</atem:invoke>\n'
    return f"weather<|message|><atem:function_calls>\n{call}"


GIGA_CHAT = "<|message_sep|>\n\nfunction call<|role_sep|>\n"
SEED = "<parameter=city>Rome</parameter>\n"
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
    ("command_r", "Action:\n```json\n", f"[\n    {{\n        {COHERE}{ROME}\n    }}\n]", ONE),
    ("muse_glimmer", " to=", muse(), ONE),
    ("apertus", "<|tools_prefix|>", f'[{{"weather": {ROME}}}]', ONE),
    ("apertus", "<|tools_prefix|>", '[{"weather": {"days": 2, "city": "Rome"}}, {"clock": {}}]', TWO),
    ("tool_calls", "<tool_calls>", f'[{{"name": "weather", "arguments": {ROME}, "id": "toolu_01"}}]', ONE),
    ("tool_calls", "<tool_calls>", LINES, TWO),
    ("phi4", "<|tool_call|>", '[{"name":"weather","arguments":{"city":"Rome"}}]', ONE),
    ("granite", "<|tool_call|>", GRANITE, TWO),
    ("functools", "functools", f'[{{\n  "name": "weather",\n  "arguments": {ROME}\n}}]', ONE),
    ("solar", "<|tool_calls|>", solar("weather", BOTH) + solar("clock", "{}"), TWO),
    ("functionary", "<function=", f"weather>{ROME}", ONE),
    ("functionary", ">>>", f"weather\n{BOTH}>>>clock\n{{}}", TWO),
    ("hy3", "<tool_calls:opensource>", hy3(":opensource", "\n"), TWO),
    ("hy3", "<tool_calls>", hy3("", ""), TWO),
    ("deepseek_r1", TAGS[0], deepseek("function", "weather\n```json\n", BOTH, "\n```"), TWO[:1]),
    ("deepseek", TAGS[0], deepseek("weather", "", BOTH, "") + deepseek("clock", "", "{}", ""), TWO),
    ("dsml", f"<{MARK}function_calls>", dsml(), TWO),
    ("dsml", f"<{MARK}tool_calls>", dsml(), TWO),
    ("seed_oss", "<seed:tool_call>", f"\n<function=weather>\n{SEED}</function>\n", ONE),
    ("minimax_m3", f"{M3_MARK}<tool_call>", minimax_m3(), TWO),
    ("nemotron", "<TOOLCALL>", f'[{{"name": "weather", "arguments": {ROME}}}]', ONE),
    ("json_tools", "<|function_call|>", f'{{"name": "weather", "arguments": {ROME}}}', ONE),
    ("json_tools", GIGA_CHAT, f'{{"name": "weather", "arguments": {ROME}}}', ONE),
    ("json_tools", "<tool_call>", f'\n{{"arguments": {ROME}, "name": "weather"}}\n', ONE),
    ("llama3", "", f'{{"name": "weather", "parameters": {ROME}}}', ONE),
    ("llama3", "", f'{{"type": "function", "name": "weather", "parameters": {ROME}}}', ONE),
    (
        "llama3",
        "",
        f'{{"name": "weather", "arguments": {BOTH}}}\n{{"name": "clock", "parameters": {{}}}}\n',
        TWO,
    ),
    ("llama3", "", WIDE + ' ; {"name": "clock", "parameters": {}}', TWO),
]
CONSTRAINED = [case for case in WRITTEN if FORMATS[case[0], case[1]].is_constrained]


def test_every_declared_format_has_an_example() -> None:
    assert {(name, start) for name, start, _, _ in WRITTEN} == FORMATS.keys()


@pytest.mark.parametrize(("name", "start", "body", "calls"), WRITTEN)
def test_calls_are_read_as_they_are_written(
    name: str, start: str, body: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    form = AnswerFormat(tool_format=FORMATS[name, start], tools=[template_tool(tool) for tool in TOOLS])
    for size in (1, 5, 1000):
        answer, events = parse(f"I look. {start}{body}{FORMATS[name, start].end}", form, size)
        assert shape(events) == [TextDelta("I look."), *calls]
        assert answer.results == ["ok"]


def test_a_deepseek_call_without_parameters_may_end_itself() -> None:
    form = FORMATS["dsml", f"<{MARK}tool_calls>"]
    body = dsml().replace(f'"clock">\n</{MARK}invoke>', '"clock"/>')
    assert body.count("invoke") == 3
    for end in (form.end, ""):  # the body may lack its end as well
        assert read_calls(form, f"{form.start}{body}{end}", [template_tool(tool) for tool in TOOLS]) == TWO


@pytest.mark.parametrize(
    "rest",
    [
        '{"html": "<br/>',
        "please <br/>",
        f'<{MARK}parameter name="city" string="true">x</{MARK}parameter>\n<{MARK}parameter name="b"/>',
        f'<{MARK}parameter name="city" string="true"><{MARK}invoke name="clock"/>',
    ],
)
def test_a_deepseek_call_is_cut_where_another_tag_ends_itself(rest: str) -> None:
    form = FORMATS["dsml", f"<{MARK}tool_calls>"]
    answer_form = AnswerFormat(tool_format=form, tools=[template_tool(tool) for tool in TOOLS])
    answer, _ = parse(f'{form.start}\n<{MARK}invoke name="weather">\n{rest}', answer_form)
    assert answer.results == ["failed"]


def test_lists_and_objects_are_elements_in_minimax_m3s_calls() -> None:
    union = {"oneOf": [{"type": "integer"}, {"type": "object", "properties": {"max": {"type": "integer"}}}]}
    items = {"type": "array", "items": {"type": "string"}}
    tool = Tool(name="t", input_schema={"properties": {"tags": items, "limit": union}})
    tags: tuple[str, ...] = ("<tags>", "<item>1", "</item>", "<item>b", "</item>", "</tags>")
    tags += ("<limit>", "<max>3", "</max>", "</limit>", "</invoke>")
    body = f'{M3_MARK}<invoke name="t">' + "".join(f"{M3_MARK}{tag}" for tag in tags)
    form = FORMATS["minimax_m3", f"{M3_MARK}<tool_call>"]
    found = read_calls(form, f"{form.start}{body}{form.end}", [template_tool(tool)])
    assert found == [("t", {"tags": ["1", "b"], "limit": {"max": 3}})]


@pytest.mark.parametrize(("name", "start", "body", "calls"), CONSTRAINED)
def test_calls_are_allowed_as_they_are_written(
    tagged: Vocabulary, name: str, start: str, body: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    """Behind text, and where a call is forced; the tool's schema holds in both. Tags are tokens."""
    form = FORMATS[name, start]
    written = f"{start}{body}{form.end}"
    grammar = GrammarCache(tagged).compile(GrammarKey(TOOLS, form, None))
    tags = AnswerTags([tag.encode() for tag in form.starts(tool.name for tool in TOOLS)], form.end.encode())
    free, forced = (ConstraintSpec(tagged, grammar, answer, tags) for answer in (None, grammar))
    for spec, text in ((free, f"I look. {written}"), (forced, written)):
        constraint, wrong = AnswerConstraint(spec), AnswerConstraint(spec)
        assert all(map(constraint.accept, [*tokens(tagged, text), *tagged.eos_ids]))
        assert not all(map(wrong.accept, tokens(tagged, text.replace("city", "town"))))


def tokens(vocabulary: Vocabulary, text: str) -> list[int]:
    """Spell a text, but for the special tokens in it."""
    parts = re.split("({})".format("|".join(map(re.escape, vocabulary.special_tokens))), text)
    special = vocabulary.special_tokens
    return [
        i for part in parts for i in ([special[part]] if part in special else vocabulary.spell(part.encode()))
    ]


@pytest.fixture(scope="module")
def tagged() -> Vocabulary:
    """Bytes, and the tags of all declared formats as tokens of their own."""
    tags = {tag for form in ALL for tag in (form.start, form.end) if tag.strip("<>|[]") != tag}
    special = ["<end>", *sorted(tags, key=len, reverse=True)]
    bytes_of = [bytes([byte]) for byte in range(256)] + [text.encode() for text in special]
    vocabulary = make_vocabulary(bytes_of, {text: 256 + i for i, text in enumerate(special)}, {256})
    assert vocabulary is not None
    return vocabulary


@pytest.mark.parametrize("form", [form for form in ALL if form.heads != ("",)])
def test_a_call_that_is_forced_begins_as_the_reader_finds_it(tagged: Vocabulary, form: ToolFormat) -> None:
    """Else a call with its arguments first, or with space before it, was text."""
    grammar, rng = GrammarCache(tagged).compile(GrammarKey(TOOLS, form, None)), random.Random(1)
    texts = [draw(tagged, grammar, rng) for _ in range(10)]
    assert any(texts)
    tools = [template_tool(tool) for tool in TOOLS]
    assert all(read_calls(form, text, tools) for text in texts if text)


@pytest.mark.parametrize(
    "text",
    ['{"name": "Anna", "parameters": {}}', 'So:\n```json\n{"name": "Anna"}\n```', "import functools as f"],
)
def test_what_names_no_tool_is_text(text: str) -> None:
    for key in (("llama3", ""), ("functools", "functools")):
        form = AnswerFormat(tool_format=FORMATS[key], tools=[template_tool(tool) for tool in TOOLS])
        assert parse(text, form)[1] == [TextDelta(text)]


def test_an_answer_goes_on_with_the_mark_that_the_prompt_has_begun(vocabulary: Vocabulary) -> None:
    """Functionary's prompts end with `>>>`, before `all` or a tool's name."""
    tool_format = FORMATS["functionary", ">>>"]
    tools = [template_tool(tool) for tool in TOOLS]
    form = AnswerFormat(tool_format=tool_format, tools=tools, silent=[TO_ALL], begun=RECIPIENT)
    call = f"weather\n{ROME}"
    for size in (1, 5, 1000):
        assert shape(parse(f"all\nI look.>>>{call}", form, size)[1]) == [TextDelta("I look."), *ONE]
        assert shape(parse(call, form, size)[1]) == ONE
    grammar = GrammarCache(vocabulary).compile(GrammarKey(TOOLS, tool_format, None))
    constraint = AnswerConstraint(ConstraintSpec(vocabulary, grammar, grammar), begun=RECIPIENT.encode())
    assert all(map(constraint.accept, vocabulary.spell(call.encode())))


def test_marks_around_text_and_values_are_silent(vocabulary: Vocabulary) -> None:
    form = AnswerFormat(silent=["<|START|>", "<|END|>"])
    text = "<|START|>A < b<|EN<|END|>"
    assert parse(text, form)[1] == parse(text, form, 7)[1] == [TextDelta("A < b<|EN")]
    key = GrammarKey((), None, {"type": "integer"}, marks=("<|START|>", "<|END|>"))
    matcher, tokens = GrammarCache(vocabulary).compile(key).begin(), vocabulary.spell(b"<|START|>42<|END|>")
    assert matcher.try_consume_tokens(tokens) == len(tokens)
    assert matcher.is_accepting()


WRITABLE = [form for form in (*DECLARED, tool_format("pythonic")) if form.syntax.write]


@pytest.mark.parametrize("form", WRITABLE, ids=lambda form: form.syntax.module)
def test_calls_that_are_written_for_a_template_are_read_back(form: ToolFormat) -> None:
    odd = {"city": 'Rome\n"°"', "more": [True, None, {"a b": 1.5}]}
    calls = [("weather", odd), ("clock", {})]
    assert read_calls(form, form.write(calls), [template_tool(tool) for tool in TOOLS]) == calls
