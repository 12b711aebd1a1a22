"""What a request's fields say about its answer."""

from typing import Any

import pytest

from pensieve.api.answer_options import AnswerOptions, ThinkingOptions, answer_options
from pensieve.api.errors import InvalidRequest
from pensieve.api.schema import MessagesRequest

BASH: dict[str, Any] = {"name": "Bash", "input_schema": {"type": "object"}}
LATE = BASH | {"name": "Late", "defer_loading": True}


def options(**fields: Any) -> AnswerOptions:
    hello = {"role": "user", "content": "Hi"}
    return answer_options(
        MessagesRequest.model_validate({"model": "m", "max_tokens": 9, "messages": [hello]} | fields)
    )


@pytest.mark.parametrize(
    ("choice", "callable_tools", "must_call", "called_tool", "forbids_calls"),
    [
        (None, ["Bash", "Late"], False, None, False),
        ({"type": "auto"}, ["Bash", "Late"], False, None, False),
        ({"type": "any"}, ["Bash", "Late"], True, None, False),
        ({"type": "tool", "name": "Late"}, ["Late"], True, "Late", False),
        ({"type": "none"}, [], False, None, True),
    ],
)
def test_a_tool_choice_says_which_tools_may_and_must_be_called(
    choice: Any, callable_tools: list[str], must_call: bool, called_tool: str | None, forbids_calls: bool
) -> None:
    found = options(tools=[BASH, LATE], tool_choice=choice)
    assert [tool.name for tool in found.tools] == ["Bash", "Late"]
    assert [tool.name for tool in found.callable_tools] == callable_tools
    assert (found.must_call, found.called_tool) == (must_call, called_tool)
    assert (found.forbids_calls, found.may_call) == (forbids_calls, bool(callable_tools))


def test_no_tool_may_be_called_when_the_prompt_shows_none() -> None:
    assert not options(tools=[LATE]).may_call


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "Bash"}])
def test_a_tool_that_is_not_there_cannot_be_called(choice: Any) -> None:
    with pytest.raises(InvalidRequest, match="needs tools"):
        options(tool_choice=choice)


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        (None, ThinkingOptions(effort="high")),
        ({"type": "adaptive"}, ThinkingOptions(True, "high")),
        ({"type": "enabled", "budget_tokens": 5}, ThinkingOptions(True, "high", 5)),
        ({"type": "disabled"}, ThinkingOptions(False, "high", forbidden=True)),
    ],
)
def test_thinking_is_wanted_left_to_the_template_or_forbidden(
    thinking: Any, expected: ThinkingOptions
) -> None:
    assert options(thinking=thinking, output_config={"effort": "high"}).thinking == expected


def test_the_rest_is_read_as_it_stands() -> None:
    schema = {"type": "object"}
    found = options(
        stop_sequences=["STOP"],
        output_config={"format": {"type": "json_schema", "schema": schema}},
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}],
    )
    assert (found.stop_sequences, found.answer_schema) == (("STOP",), schema)
    assert found.one_call
    assert found.continues_answer


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, {"Bash"}),
        ({"tool_choice": {"type": "auto", "names": ["Late"]}}, set()),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}, set()),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "So: "}]}, set()),
    ],
)
def test_only_tools_that_may_be_called_count_without_tags_and_none_in_a_value_or_a_begun_text(
    fields: dict[str, Any], names: set[str]
) -> None:
    assert options(tools=[BASH, LATE], **fields).untagged_names == names
