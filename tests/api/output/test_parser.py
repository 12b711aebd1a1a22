"""The parser of answers: the same events whatever the chunks, and nothing lost."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pensieve.api.formats.answer_format import AnswerFormat
from pensieve.api.formats.detokenizer import WindowDetokenizer
from pensieve.api.formats.output_events import (
    ArgumentsDelta,
    TextDelta,
    ThinkingDelta,
    ToolCallStart,
)
from pensieve.api.formats.tag_follower import TagSet
from pensieve.api.formats.thinking_tags import ThinkingTags
from pensieve.api.formats.tool_calls.plain_format import plain_format
from pensieve.api.formats.tool_calls.tool_format import ToolFormat
from pensieve.api.output.parser import OutputParser

from ...fakes import ByteTokenizer
from .parsing import merge, parse, shape

BASH: dict[str, Any] = {"type": "function", "function": {"name": "Bash", "parameters": {}}}
TOOLS = AnswerFormat(tool_format=plain_format(), tools=[BASH])
THINKS = AnswerFormat(thinking=ThinkingTags("<think>", "</think>"))
EVERYTHING = AnswerFormat(
    stop_sequences=["STOP", "ST"],
    tool_format=plain_format(),
    tools=[BASH],
    thinking=ThinkingTags("<think>", "</think>"),
)
VALUE = replace(EVERYTHING, is_value=True)
CALL = '<tool_call>{"name": "Bash", "arguments": {"command": "ls"}}</tool_call>'

FRAGMENTS = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    CALL,
    "STOP",
    "ST",
    "S",
    "<",
    "\n",
    " ",
    "é",
    "hi",
]


@given(st.text())
@example("trailing space \n ")
@example("\n\n")
def test_plain_text_comes_out_as_it_went_in(text: str) -> None:
    for answer_format in (AnswerFormat(), TOOLS, THINKS):
        if not any(tag in text for tag in ("<tool_call>", "<think>")):
            assert parse(text, answer_format)[1] == ([TextDelta(text)] if text else [])


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join), st.integers(2, 20))
def test_events_do_not_depend_on_how_the_tokens_come(text: str, size: int) -> None:
    for answer_format in (EVERYTHING, VALUE):
        one, by_one = parse(text, answer_format)
        other, by_many = parse(text, answer_format, size)
        assert shape(by_one) == shape(by_many)
        assert (one.stop_sequence, one.results) == (other.stop_sequence, other.results)


@given(st.text("ab<"), st.lists(st.text("ab<", min_size=1)))
def test_an_overlap_is_the_longest_end_that_a_tag_begins_with(text: str, tags: list[str]) -> None:
    assume(not any(tag in text for tag in tags))
    ends = [text[place:] for place in range(len(text))]
    longest = next((end for end in ends if any(tag.startswith(end) for tag in tags)), "")
    encoded = TagSet(tag.encode() for tag in tags)
    assert TagSet(tags).overlap(text) == encoded.overlap(text.encode()) == len(longest)


@given(st.text("ab<"), st.lists(st.text("ab<", min_size=1)))
def test_of_several_tags_the_one_that_ends_first_is_found(text: str, tags: list[str]) -> None:
    ends = [(place + len(tag), place, tag) for tag in tags if (place := text.find(tag)) >= 0]
    assert TagSet(tags).find_first(text) == (min(ends)[1:] if ends else None)


def test_text_around_calls_loses_only_the_space_at_the_calls() -> None:
    _, events = parse(f"\n Look: \n\n{CALL}\n{CALL} \nDone. ", TOOLS)
    call = ("Bash", {"command": "ls"})
    assert shape(events) == [TextDelta("\n Look:"), call, call, TextDelta("Done. ")]


def test_space_before_a_call_is_no_block() -> None:
    assert shape(parse(f"\n\n{CALL}\n", TOOLS)[1]) == [("Bash", {"command": "ls"})]


@pytest.mark.parametrize(
    ("inner", "arguments"),
    [
        ('{"name": "Bash", "arguments": {"command": "ls"}', {"command": "ls"}),
        ('{"name": "Bash", "arguments": {"command": "ls"}}}', {"command": "ls"}),
        ('{"name": "Bash", "arguments": {"command": "a\nb"}}', {"command": "a\nb"}),
        ('{"name": "Bash", "arguments": {"command": "{[\\""', {"command": '{["'}),
    ],
)
def test_small_faults_of_a_call_are_repaired(inner: str, arguments: dict[str, str]) -> None:
    parser, events = parse(f"<tool_call>{inner}</tool_call>", TOOLS)
    assert shape(events) == [("Bash", arguments)]
    assert parser.results == ["repaired"]


def test_a_broken_call_of_a_known_tool_is_handed_over_unparsed() -> None:
    inner = '{"name": "Bash", "arguments": {"command": ls}}'
    parser, events = parse(f"<tool_call>{inner}</tool_call>", TOOLS)
    raw = '{"command": ls}}'
    assert shape(events) == [("Bash", {"__unparsedToolInput": {"raw": raw, "len": len(raw)}})]
    assert (parser.results, parser.has_calls) == (["failed"], True)


@pytest.mark.parametrize(
    "inner", ["no JSON", "[]", "[1]", '{"name": 1}', '{"name": "Bash", "arguments": {"x": NaN}', "[" * 5000]
)
def test_what_is_no_call_is_text_and_never_lost(inner: str) -> None:
    text = f"See: <tool_call>{inner}</tool_call> ok"
    parser, events = parse(text, AnswerFormat(tool_format=plain_format()))
    assert events == [TextDelta(text)]
    assert (parser.results, parser.has_calls) == (["failed"], False)


def test_a_call_that_was_cut_off_is_shown_as_far_as_it_goes() -> None:
    """No client may take it for whole: the fragments are no JSON, and the input says so."""
    text = '<tool_call>{"name": "Bash", "arguments": {"command": "rm -rf /tmp/a'
    parser, events = parse(text, TOOLS)
    raw = '{"command": "rm -rf /tmp/a'
    assert "".join(event.json for event in events if isinstance(event, ArgumentsDelta)) == raw
    assert shape(events) == [("Bash", {"__unparsedToolInput": {"raw": raw, "len": len(raw)}})]
    assert parser.results == ["failed"]


def test_a_whole_call_without_its_end_tag_counts() -> None:
    assert shape(parse(CALL.removesuffix("</tool_call>"), TOOLS)[1]) == [("Bash", {"command": "ls"})]


def test_a_format_without_end_tag_lasts_to_the_end() -> None:
    def parser(text: str, _tools: object) -> list[dict[str, Any]]:
        return [{"name": name, "arguments": {}} for name in text.split()]

    answer_format = AnswerFormat(tool_format=ToolFormat.of_parser("[CALLS]", "", parser))
    assert shape(parse("Go. [CALLS]a b", answer_format)[1]) == [TextDelta("Go."), ("a", {}), ("b", {})]


def test_lone_surrogates_in_arguments_are_replaced() -> None:
    _, events = parse('<tool_call>{"name": "Bash", "arguments": {"a": "\\ud800"}}</tool_call>', TOOLS)
    assert shape(events) == [("Bash", {"a": "?"})]


def test_arguments_may_come_as_text() -> None:
    _, events = parse('<tool_call>{"name": "Bash", "arguments": "{\\"a\\": 1}"}</tool_call>', TOOLS)
    assert shape(events) == [("Bash", {"a": 1})]


def test_of_two_stop_sequences_the_one_that_ends_first_wins() -> None:
    parser, events = parse("go STOP", EVERYTHING, size=100)
    assert (events, parser.stop_sequence) == ([TextDelta("go ")], "ST")


def test_stop_sequences_do_not_count_in_thoughts_or_calls() -> None:
    call = CALL.replace("ls", "STOP")
    parser, events = parse(f"<think>STOP</think>{call}", EVERYTHING)
    assert shape(events) == [ThinkingDelta("STOP"), ("Bash", {"command": "STOP"})]
    assert parser.stop_sequence is None


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize("start", ["", "\n", "<think>Hm.</think>\n"])
@pytest.mark.parametrize("tags", ["<think> and </think>", "<think>", "<tool_call>", f"<{CALL}"])
def test_a_value_may_speak_of_tags(tags: str, start: str, size: int) -> None:
    """What stood between them was once taken out of the string, as thoughts or as a call."""
    value = f'{{"summary": "It explains {tags} here", "n": 1}}'
    parser, events = parse(start + value, VALUE, size)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)).strip() == value
    assert [event for event in events if not isinstance(event, TextDelta)] == [ThinkingDelta("Hm.")] * (
        "Hm" in start
    )
    assert not parser.has_calls


def test_calls_may_stand_instead_of_a_value_and_stop_sequences_end_it() -> None:
    call = ("Bash", {"command": "ls"})
    assert shape(parse(f"<think>Hm.</think>\n{CALL}\n{CALL}", VALUE)[1]) == [ThinkingDelta("Hm."), call, call]
    parser, events = parse('{"a": "<think> STOP"}', VALUE)
    assert (events, parser.stop_sequence) == ([TextDelta('{"a": "<think> ')], "ST")


def test_thoughts_that_the_template_opened_end_at_their_tag() -> None:
    answer_format = AnswerFormat(thinking=ThinkingTags("<think>", "</think>"), starts_thinking=True)
    assert parse("\nHm.\n</think>\n\nYes.\n", answer_format)[1] == [ThinkingDelta("Hm."), TextDelta("Yes.\n")]


def test_empty_thoughts_leave_no_block_and_no_space() -> None:
    assert parse("<think>\n\n</think>\n\nYes.", THINKS)[1] == [TextDelta("Yes.")]


@pytest.mark.parametrize("label", ["thought\n", ""])
@pytest.mark.parametrize("thoughts", ["thousand", "thought", "Hm."])
def test_a_word_behind_the_tag_of_thoughts_may_be_left_out(label: str, thoughts: str) -> None:
    """Gemma 4 leaves out "thought", and thoughts without it were text."""
    tags = ThinkingTags("<|channel>", "<channel|>", label="thought\n")
    wanted = [ThinkingDelta(thoughts)] if label or thoughts != "thought" else []
    found = parse(f"<|channel>{label}{thoughts}<channel|>Yes.", AnswerFormat(thinking=tags))[1]
    assert found == [*wanted, TextDelta("Yes.")]


@pytest.mark.parametrize("opened", [True, False])
def test_a_call_in_thoughts_that_never_end_is_a_call(opened: bool) -> None:
    """Qwen3.5, Ling 3 and Kimi K2 sometimes call a tool without ending their thoughts."""
    answer = replace(EVERYTHING, starts_thinking=opened)
    text = ("" if opened else "<think>") + f"I look. {CALL}\n"
    assert shape(parse(text, answer)[1]) == [ThinkingDelta("I look."), ("Bash", {"command": "ls"})]


def test_a_call_in_thoughts_that_the_token_limit_cut_off_stays_a_thought() -> None:
    tokenizer = ByteTokenizer()
    parser = OutputParser(WindowDetokenizer(tokenizer.decode), replace(EVERYTHING, starts_thinking=True))
    events = parser.feed(tokenizer.encode(f"I look. {CALL}"))
    assert merge(events + parser.finish(cut_off=True)) == [ThinkingDelta(f"I look. {CALL}")]


def test_space_without_end_is_taken_once() -> None:
    """Each token had all the space before it looked through again: 4 s for 64 KB."""
    text = " \n" * 50_000
    for answer in (THINKS, replace(THINKS, thinking=None)):
        assert parse(text, answer, size=16)[1] == [TextDelta(text)]


def test_thoughts_that_speak_of_calls_stay_thoughts() -> None:
    answer = replace(EVERYTHING, starts_thinking=True)
    for thought in (f"I could write {CALL} now", "a <tool_call> tag", "<tool"):
        for end, rest in (("</think>Yes.", [TextDelta("Yes.")]), ("", [])):
            if end or thought[-1] != "w":
                assert parse(thought + end, answer)[1] == [ThinkingDelta(thought), *rest]


def test_end_tags_behind_a_calls_own_are_no_text() -> None:
    text = f"{CALL} {'</tool_call>' * 3000} Done.</tool_call>"
    for size in (1000, 100_000):
        assert shape(parse(text, TOOLS, size)[1])[1:] == [TextDelta("Done.</tool_call>")]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_an_end_of_thoughts_that_begins_an_answer_is_no_text(size: int) -> None:
    assert parse("\n</think>\n\nHello", THINKS, size)[1] == [TextDelta("Hello")]
    assert parse("</thin", THINKS, size)[1] == [TextDelta("</thin")]
    assert parse("Hello</think>", THINKS, size)[1] == [TextDelta("Hello</think>")]


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_tags_around_the_whole_text_are_no_part_of_it(size: int) -> None:
    answer = replace(THINKS, wrap=("<answer>", "</answer>"))
    for text, shown in (
        ("<think>a</think>\n<answer>\nYes.\n</answer>\n", "Yes."),
        ("<answer>Yes <answer></answer> it is</answer>", "Yes <answer></answer> it is"),
        ("No <answer>tag</answer>", "No <answer>tag</answer>"),
        ("<answer>cut", "cut"),
    ):
        assert parse(text, answer, size)[1][-1] == TextDelta(shown)


def test_an_end_tag_in_an_argument_is_a_part_of_it() -> None:
    """A file that speaks of tags, such as this one, must be writable."""
    call = '{"name": "Bash", "arguments": {"command": "x </tool_call> \\" </tool_call>"}}'
    parser, events = parse(f"<tool_call>{call}</tool_call>.", TOOLS)
    assert shape(events) == [("Bash", {"command": 'x </tool_call> " </tool_call>'}), TextDelta(".")]
    assert parser.results == ["ok"]


def test_a_string_that_is_never_closed_ends_with_the_first_end_tag() -> None:
    text = '<tool_call>{"name": "Bash", "arguments": {"command": "ls}}</tool_call> and more'
    parser, events = parse(text, TOOLS)
    assert parser.results == ["failed"]
    raw = '{"command": "ls}}'
    unparsed = {"__unparsedToolInput": {"raw": raw, "len": len(raw)}}
    assert shape(events) == [("Bash", unparsed), TextDelta("and more")]


def test_a_broken_call_full_of_quotes_is_read_in_one_go() -> None:
    """The search for strings once began anew at every quote; this would take minutes."""
    text = '<tool_call>{"name": "Bash", "arguments": {"command": "' + '\\"' * 100_000
    _, events = parse(text + "</tool_call>", TOOLS, size=10_000)
    assert [event.name for event in events if isinstance(event, ToolCallStart)] == ["Bash"]


def test_open_thoughts_may_begin_with_the_tag_that_has_opened_them() -> None:
    opened = replace(THINKS, starts_thinking=True)
    for size in (1, 100):
        events = parse("\n<think>\nHm.</think>Yes <think>", opened, size)[1]
        assert shape(events) == [ThinkingDelta("Hm."), TextDelta("Yes")]
    assert shape(parse("a <think> b", opened)[1]) == [ThinkingDelta("a <think> b")]
