"""Values of calls that are written as text, a parameter at a time."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from pensieve.api.formats.answer_format import AnswerFormat
from pensieve.api.formats.output_events import OutputEvent
from pensieve.api.formats.readers import parameter_calls
from pensieve.api.formats.readers.parameter_values import read_value

from ...output.parsing import parse, shape
from .call_texts import answer_format, fragments


def xml(key: str, value: str) -> str:
    return f"<parameter={key}>\n{value}\n</parameter>\n"


def pair(key: str, value: str, prefix: str = "") -> str:
    return f"<{prefix}arg_key>{key}</{prefix}arg_key>\n<{prefix}arg_value>{value}</{prefix}arg_value>\n"


def param(key: str, value: str, prefix: str = "parameter") -> str:
    return f'<{prefix} name="{key}">{value}</{prefix}>'


FORMS: dict[str, tuple[str, Callable[[str, str], str], str]] = {  # head, parameter, end
    "qwen3_coder": ("\n<function=t>\n", xml, "</function>\n"),
    "glm47": ("t\n", pair, ""),
    "longcat": ("t\n", lambda key, value: pair(key, value, "longcat_"), ""),
    "minimax_m2": (
        '\n<invoke name="t">\n',
        lambda key, value: param(key, value) + "\n",
        "</invoke>\n",
    ),
    "minicpm5": ('"t">', lambda key, value: param(key, value, "param"), ""),
    "muse_spark": (
        '<atem:invoke name="t">',
        lambda key, value: param(key, value, "atem:parameter"),
        "</atem:invoke>",
    ),
}


def form(parser: str, **properties: Any) -> AnswerFormat:
    """A format, and one tool with these parameters."""
    schema = {"type": "object", "properties": properties}
    tool = {"type": "function", "function": {"name": "t", "parameters": schema}}
    return AnswerFormat(tool_format=answer_format(parser).tool_format, tools=[tool])


def call(parser: str, *parameters: tuple[str, str]) -> str:
    head, parameter, end = FORMS[parser]
    calls = answer_format(parser).tool_format
    assert calls is not None
    return calls.start + head + "".join(parameter(*pair) for pair in parameters) + end + calls.end


def read(text: str, form: AnswerFormat) -> tuple[list[str], list[Any]]:
    """Read a call, and see that it is read the same however its tokens come."""
    answer, events = parse(text, form)
    assert shape(parse(text, form, 1000)[1]) == shape(events)
    return list(answer.results), shape(events)


def whole_json(events: list[OutputEvent]) -> bool:
    try:
        json.loads("".join(fragments(events)))
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("parser", FORMS)
def test_a_call_that_an_end_mark_cuts_within_a_value_is_never_whole(parser: str) -> None:
    """GLM's and MiniCPM's calls were taken for whole, without the parameter that was open."""
    calls = form(parser, a={"type": "string"}, b={"type": "string"})
    assert calls.tool_format is not None
    text = call(parser, ("a", "x"), ("b", f"one {calls.tool_format.end} two"))
    answer, events = parse(text, calls)
    assert answer.results == ["failed"]
    assert not whole_json(events)


@pytest.mark.parametrize("parser", FORMS)
@pytest.mark.parametrize("text", ["    indented\n", "\n\n a \n\n", " ", "\tx", '"quoted" '])
def test_space_around_a_text_is_a_part_of_it(parser: str, text: str) -> None:
    """Edits lost the indentation of what they were to replace, and files their last line break."""
    text_type = {"type": "string"}
    results, calls = read(call(parser, ("a", text), ("b", "x")), form(parser, a=text_type, b=text_type))
    assert (results, calls) == (["ok"], [("t", {"a": text, "b": "x"})])


def test_several_calls_of_one_body_keep_their_own_texts() -> None:
    head, parameter, end = FORMS["minimax_m2"]
    text = "".join(head + parameter("a", value) + end for value in (" one", "two "))
    text = f"<minimax:tool_call>{text}</minimax:tool_call>"
    _, calls = read(text, form("minimax_m2", a={"type": "string"}))
    assert calls == [("t", {"a": " one"}), ("t", {"a": "two "})]


def test_the_tags_that_minicpm_puts_around_a_text_are_no_part_of_it() -> None:
    text = call("minicpm5", ("a", "<![CDATA[ x < y\n]]>"))
    assert read(text, form("minicpm5", a={"type": "string"}))[1] == [("t", {"a": " x < y\n"})]


@pytest.mark.parametrize(
    ("kinds", "value"),
    [
        (["boolean", "null"], True),
        (["boolean", "null"], None),
        (["array", "null"], [True, None]),
        (["object", "null"], {"a": True}),
        (["integer", "string"], 3),
        ("integer", 12345678901234567),
        ("number", 12345678901234567),
        ("number", 0.5),
    ],
)
@pytest.mark.parametrize("parser", FORMS)
def test_values_are_of_the_type_that_the_schema_names(parser: str, kinds: Any, value: Any) -> None:
    """Qwen3-Coder's parser made texts of them, and took large numbers for others."""
    results, calls = read(call(parser, ("a", json.dumps(value))), form(parser, a={"type": kinds}))
    assert (results, calls) == (["ok"], [("t", {"a": value})])
    assert type(calls[0][1]["a"]) is type(value)


@pytest.mark.parametrize("schema", [{"type": 5}, {"type": {"x": 1}}, True, None])
def test_a_schema_that_is_none_hides_no_call(schema: Any) -> None:
    calls = read(call("longcat", ("a", "[1]")), form("longcat", b={"type": "string"}, c=schema))[1]
    assert calls == [("t", {"a": [1]})]
    calls = read(call("muse_spark", ("a", "[1]")), form("muse_spark", a=schema))[1]
    assert calls == [("t", {"a": [1]})]


def test_a_text_in_json_is_read_as_json_is() -> None:
    text = r'"smile \ud83d\ude00 ab"'
    calls = read(call("qwen3_coder", ("a", text)), form("qwen3_coder", a={"type": ["string", "null"]}))[1]
    assert calls == [("t", {"a": "smile 😀 ab"})]


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "integer"}, "3.0", 3),
        ({"type": "boolean"}, "True", True),
        ({"type": "string"}, "null", "null"),
        ({"type": ["string", "null"]}, "hello", "hello"),
        ({"type": ["null", "string"]}, "null", None),
        ({"type": ["string", "null"]}, "123", "123"),
        ({"anyOf": [{"type": "string"}, {"type": "object"}]}, '{"a": 1}', {"a": 1}),
        ({"oneOf": [{"type": "string"}, {"type": "object"}]}, "{no object", "{no object"),
        ({"enum": ["a", None]}, "null", None),
    ],
)
@pytest.mark.parametrize("parser", FORMS)
def test_the_schema_decides_what_a_text_stands_for(parser: str, schema: Any, text: str, value: Any) -> None:
    assert read(call(parser, ("a", text)), form(parser, a=schema))[1] == [("t", {"a": value})]


@pytest.mark.parametrize("parser", FORMS)
def test_each_value_is_read_as_it_ends_and_once_more_at_the_end(
    parser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All values so far were read again for each new one: a model in a loop held up all streams."""
    num_read = 0

    def counted(text: str, kinds: frozenset[str]) -> Any:
        nonlocal num_read
        num_read += 1
        return read_value(text, kinds)

    monkeypatch.setattr(parameter_calls, "read_value", counted)
    values = [(f"k{i}", str(i)) for i in range(60)]
    _, events = parse(call(parser, *values), form(parser))
    assert shape(events) == [("t", {key: int(value) for key, value in values})]
    assert num_read == 2 * len(values)
