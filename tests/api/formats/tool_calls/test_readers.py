"""Calls that are sent while they are written, in every format that mlx-lm reads."""

import json
import random
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pensieve.api.formats.answer_format import AnswerFormat
from pensieve.api.formats.output_events import (
    TextDelta,
    ToolCallEnd,
    ToolCallStart,
)
from pensieve.api.formats.tool_calls.gemma4 import BESIDE_SIGNS
from pensieve.api.formats.tool_calls.plain_format import plain_format

from ...output.parsing import parse, shape
from .call_texts import (
    BODIES,
    INPUT,
    STREAMED,
    WRITE,
    answer_format,
    call_text,
    fragments,
    parse_calls,
)
from .known_formats import tool_format


@pytest.mark.parametrize("parser", BODIES)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_call_is_read_as_mlx_lm_reads_it(parser: str, size: int) -> None:
    answer, events = parse(f"So: {call_text(parser)}", answer_format(parser), size)
    assert shape(events) == [TextDelta("So:"), ("Write", INPUT)]
    assert answer.results == ["ok"]


@pytest.mark.parametrize("parser", STREAMED)
def test_the_name_and_the_arguments_are_sent_before_the_call_ends(parser: str) -> None:
    whole = call_text(parser)
    early = whole[: whole.rindex("two") + 3] if parser in ("json_tools", "mistral", "kimi_k2") else whole
    early = early[: early.rindex("3")] if early is whole else early
    _, events = parse(early, answer_format(parser))
    assert isinstance(events[0], ToolCallStart)
    assert events[0].name == "Write"
    assert len(fragments(events)) > 1
    assert "".join(fragments(events)).startswith('{"path": "a.txt"')


@pytest.mark.parametrize("parser", STREAMED)
def test_a_call_of_an_unknown_tool_is_not_sent_before_its_end(parser: str) -> None:
    whole = call_text(parser, "Delete")
    ((name, arguments),) = parse_calls(whole, answer_format(parser))
    assert (name, arguments | {"times": 3}) == ("Delete", INPUT)  # without a schema, 3 may be text
    cut = whole[: whole.rindex("3")]
    assert parse(cut, answer_format(parser))[1] == [TextDelta(cut)]


@pytest.mark.parametrize("parser", BODIES)
def test_a_call_that_is_cut_off_anywhere_is_never_whole(parser: str) -> None:
    """glm47's parser reads half a call without complaint; it would run with what had come by then."""
    whole = call_text(parser)
    form = answer_format(parser).tool_format
    assert form is not None
    end = whole.rindex("3") - 1
    for length in range(len(form.start), end):
        _, events = parse(whole[:length], answer_format(parser))
        for event in shape(events):
            if isinstance(event, tuple):
                assert event[0] == "Write"
                assert list(event[1]) == ["__unparsedToolInput"]
            else:
                assert isinstance(event, TextDelta)


def test_half_a_call_that_a_generous_parser_reads_is_text() -> None:
    """mlx-lm's pythonic parser falls back to a loose search, and the first part of this loop would run."""
    call = """[Write(path='for i in ${a[f(1)]}; do rm -rf build/$i; done [g(2)]', times=3)]"""
    start = "<|tool_call_start|>"
    for length in range(1, len(call) + 1):
        answer, events = parse(start + call[:length], answer_format("pythonic"))
        assert events == [TextDelta(start + call[:length])]
        assert answer.results == ["failed"]
    ended = parse_calls(f"{start}{call}<|tool_call_end|>", answer_format("pythonic"))
    assert [name for name, _ in ended] == ["Write"]


def test_without_an_end_mark_a_list_counts_if_it_is_whole() -> None:
    form = replace(tool_format("pythonic"), end="")
    call = "[Write(path='${a[f(1)]}')]"
    for length in range(1, len(call)):
        assert parse(form.start + call[:length], AnswerFormat(tool_format=form))[1] == [
            TextDelta(form.start + call[:length])
        ]
    assert parse_calls(form.start + call, AnswerFormat(tool_format=form)) == [
        ("Write", {"path": "${a[f(1)]}"})
    ]
    events = parse('[TOOL_CALLS] [{"name": "Write", "arguments": {}}]\n\nDone.', answer_format("mistral"))[1]
    assert shape(events) == [("Write", {}), TextDelta("Done.")]
    mistral = '[TOOL_CALLS][{"name": "Write", "arguments": {"a": null}}]'
    assert parse_calls(mistral, answer_format("mistral")) == [("Write", {"a": None})]


def test_calls_that_begin_without_their_start_tag_are_read() -> None:
    """Qwen3-Coder often forgets the tag after some text, Kimi K2 that of the section."""
    call = "<function=Write>\n<parameter=command>\nls\n</parameter>\n</function>\n</tool_call>"
    for start in ("", "<tool_call>\n"):
        events = parse(f"I look.\n{start}{call}", answer_format("qwen3_coder"))[1]
        assert shape(events) == [TextDelta("I look."), ("Write", {"command": "ls"})]
    text = "See <function=Other> and <function=Write> here."
    assert shape(parse(text, answer_format("qwen3_coder"))[1]) == [TextDelta(text)]


@pytest.mark.parametrize("parser", ["minimax_m2", "muse_spark", "kimi_k2", "mistral"])
def test_several_calls_in_one_body_are_sent_one_by_one(parser: str) -> None:
    form = answer_format(parser).tool_format
    assert form is not None
    text = form.start + BODIES[parser]("Write") + BODIES[parser]("Read") + form.end
    answer, events = parse(text, answer_format(parser))
    assert shape(events) == [("Write", INPUT), ("Read", INPUT)]
    first_end = events.index(ToolCallEnd())
    assert [type(event) for event in events[first_end + 1 :]].count(ToolCallStart) == 1
    assert answer.results == ["ok"]
    one = parse(text, answer_format(parser, one_call=True))[1]
    assert shape(one) == [("Write", INPUT)]


@pytest.mark.parametrize("separator", ["", "\n", ", "])
@pytest.mark.parametrize("brackets", ["[]", ""])
def test_several_json_calls_in_one_body(separator: str, brackets: str) -> None:
    body = BODIES["json_tools"]
    separator = ", " if brackets else separator
    calls = f"{body('Write')}{separator}{body('Read')}"
    text = f"<tool_call>{brackets[:1]}{calls}{brackets[1:]}</tool_call>"
    assert shape(parse(text, answer_format("json_tools"))[1]) == [("Write", INPUT), ("Read", INPUT)]


def test_arguments_may_come_before_the_name() -> None:
    text = json.dumps({"arguments": INPUT, "name": "Write"})
    _, events = parse(f"<tool_call>{text}</tool_call>", answer_format("json_tools"))
    assert shape(events) == [("Write", INPUT)]
    assert len(fragments(events)) == 1  # held back until the name was known


def test_what_surrounds_name_and_arguments_does_not_matter() -> None:
    other = '"id": {"name": "x", "arguments": [1]}'
    text = f'{{{other}, "parameters": {{"path": "a"}}, "name": "Read", "arguments": {{"b": 1}}}}'
    _, events = parse(f"<tool_call>\n{text}\n</tool_call>", answer_format("json_tools"))
    assert shape(events) == [("Read", {"path": "a"})]


def test_a_call_without_arguments_has_none() -> None:
    answer, events = parse('<tool_call>{"name": "Read"}</tool_call>', answer_format("json_tools"))
    assert (shape(events), answer.results) == ([("Read", {})], ["ok"])


@pytest.mark.parametrize(
    "cut", ['{"name": "Read"', '{"name": "Read", "argum', '{"name": "Read", "arguments": ']
)
def test_a_call_cut_off_behind_its_name_has_no_whole_arguments(cut: str) -> None:
    """Clients take a call without fragments for one with an empty object of arguments, and run it."""
    _, events = parse(f"<tool_call>{cut}", answer_format("json_tools"))
    assert fragments(events) == ["{"]


@pytest.mark.parametrize("arguments", ["3", "null", '"no JSON"', "[1]", '"[1]"', "ls"])
def test_arguments_that_are_no_object_are_handed_over_unparsed(arguments: str) -> None:
    text = f'{{"name": "Read", "arguments": {arguments}}}'
    answer, events = parse(f"<tool_call>{text}</tool_call>", answer_format("json_tools"))
    assert shape(events) == [("Read", {"__unparsedToolInput": {"raw": text, "len": len(text)}})]
    assert answer.results == ["failed"]


@pytest.mark.parametrize("value", ["NaN", "1e999", "[" * 250 + "]" * 250])
def test_what_some_readers_take_and_others_do_not_is_no_json_to_any(value: str) -> None:
    text = f'{{"name": "Read", "arguments": {{"path": {value}}}'
    _, events = parse(f"<tool_call>{text}", answer_format("json_tools"))
    joined = "".join(fragments(events))
    assert re.fullmatch(r'\{"path": \[*', joined)
    assert shape(events) == [("Read", {"__unparsedToolInput": {"raw": joined, "len": len(joined)}})]


def test_a_call_ends_where_its_json_does_when_the_mark_is_forgotten() -> None:
    body = BODIES["json_tools"]
    text = f"<tool_call>{body('Write')}\nI wait.\n<tool_call>{body('Read')}</tool_call>."
    answer, events = parse(text, answer_format("json_tools"))
    assert shape(events) == [("Write", INPUT), ("Read", INPUT), TextDelta(".")]
    assert answer.results == ["repaired", "ok"]
    between = parse(f"<tool_call>{body('Write')} I wait.</tool_call>", answer_format("json_tools"))[1]
    assert shape(between) == [("Write", INPUT)]
    without = parse(f"<tool_call>{body('Write')}\nI wait.", answer_format("json_tools"))[1]
    assert shape(without) == [("Write", INPUT), TextDelta("I wait.")]


def test_models_of_other_formats_may_fall_back_to_json() -> None:
    text = f"<tool_call>\n{BODIES['json_tools']('Write')}</tool_call>"
    answer, events = parse(text, answer_format("qwen3_coder"))
    assert shape(events) == [("Write", INPUT)]
    assert answer.results == ["repaired"]


def test_a_long_argument_is_read_in_time_that_grows_with_its_length() -> None:
    """Once each end tag in a file had the whole call looked through again."""
    text = "x </tool_call> \\n" * 20_000
    call = f'<tool_call>{{"name": "Write", "arguments": {{"text": "{text}"}}}}</tool_call>'
    _, events = parse(call, answer_format("json_tools"), size=64)
    assert shape(events) == [("Write", {"text": text.replace("\\n", "\n")})]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_json_may_stand_in_the_place_of_parameters(size: int) -> None:
    """Such a call had no arguments at all."""
    long = INPUT | {"text": "x" * 500}
    calls = "".join(f'<invoke name="Write">\n{json.dumps(values)}\n</invoke>\n' for values in (INPUT, long))
    text = f'<minimax:tool_call>\n{calls}<invoke name="Read">\n</invoke>\n</minimax:tool_call>'
    _, events = parse(text, answer_format("minimax_m2"), size)
    assert shape(events) == [("Write", INPUT), ("Write", long), ("Read", {})]


def test_a_call_that_has_ended_is_whole_without_the_end_of_its_body() -> None:
    call = call_text("qwen3_coder").removesuffix("</tool_call>").rstrip()
    assert call.endswith("</function>")
    for text in (call, call.removeprefix("<tool_call>").lstrip()):
        assert parse_calls(text, answer_format("qwen3_coder")) == [("Write", INPUT)]


def test_gemmas_calls_are_read_without_the_word_before_them() -> None:
    lost = call_text("gemma4").replace("call:", ":", 1)
    assert parse_calls(lost, answer_format("gemma4")) == [("Write", INPUT)]


def test_gemmas_calls_that_have_closed_their_braces_are_whole_without_their_end_tag() -> None:
    call = call_text("gemma4").removesuffix("<tool_call|>")
    assert parse_calls(call, answer_format("gemma4")) == [("Write", INPUT)]
    for end in (1, 4, 40):
        assert parse_calls(call[:-end], answer_format("gemma4")) == []
    assert parse_calls(call.replace("one", "}")[: call.index("one") + 1], answer_format("gemma4")) == []


def test_gemmas_calls_with_text_behind_them_or_cut_stay_text_without_their_end_tag() -> None:
    for text in (
        'call:Write{path:<|"|>a<|"|>}\nNow the text of an answer, with {braces}',
        '{"name": "Write", "arguments": {"path": "a.c", "content": "int main() { return 0; }}}',
    ):
        _, events = parse(f"<|tool_call>{text}", answer_format("gemma4"))
        assert events == [TextDelta(f"<|tool_call>{text}")]


def test_gemmas_calls_are_read_one_after_another_without_end_tags() -> None:
    call = call_text("gemma4").removesuffix("<tool_call|>")
    for text in (call + call, f"{call}\n{call.removeprefix('<|tool_call>')}\n"):
        assert parse_calls(text, answer_format("gemma4")) == [("Write", INPUT)] * 2
    json_call = '{"name": "Write", "arguments": {"path": "}"}}'
    assert parse_calls(f"<|tool_call>{json_call}", answer_format("gemma4")) == [("Write", {"path": "}"})]


def test_ends_of_parameters_in_cdata_are_passed_over() -> None:
    """Each had the text so far read again: 7 s for 64 KB."""
    text = "<b></param>" * 20_000
    call = f'<function name="Write"><param name="text"><![CDATA[{text}]]></param></function>'
    _, events = parse(call, answer_format("minicpm5"), size=64)
    assert shape(events) == [("Write", {"text": text})]


@pytest.mark.parametrize("parser", BODIES)
@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_is_sent_does_not_depend_on_how_the_tokens_come(parser: str, seed: int) -> None:
    """Calls whole and broken: pieces of them are dropped, doubled and cut off."""
    rng = random.Random(seed)
    text = "".join(
        call_text(parser, rng.choice(["Write", "Read", "Delete"])) + "\n" for _ in range(rng.randint(1, 2))
    )
    for _ in range(rng.randint(0, 3)):
        start, length = rng.randrange(len(text)), rng.randint(0, 12)
        piece = rng.choice(["", text[start : start + length] * 2, '"', "}"])
        text = text[:start] + piece + text[start + length :]
    one, by_one = parse(text, answer_format(parser))
    other, by_many = parse(text, answer_format(parser), rng.randint(2, 30))
    assert shape(by_one) == shape(by_many)
    assert one.results == other.results


def test_the_plain_format_is_sent_as_it_comes() -> None:
    _, events = parse(call_text("json_tools"), AnswerFormat(tool_format=plain_format(), tools=[WRITE]))
    assert len(fragments(events)) > 10


@pytest.mark.parametrize("part", ['\\"', "\\\n", "a"])
@pytest.mark.parametrize("end", ["", "\\"])
def test_a_string_of_gemma_without_its_end_is_looked_at_once(part: str, end: str) -> None:
    text = '"' + part * 1000 + end
    for pattern in BESIDE_SIGNS:
        assert [found.span() for found in pattern.finditer(text)] == [(0, len(text))]
