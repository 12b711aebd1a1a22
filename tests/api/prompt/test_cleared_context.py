"""Old thoughts and tool results are left out where the client asks for it, and the response says so."""

from typing import Any

import anthropic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pensieve.api.context_edits import ToolClearing
from pensieve.api.prompt.cleared_context import CLEARED, edit_context
from pensieve.api.schema import CountTokensRequest

from ..conftest import Server
from ..exchange import BASH

BETAS = ["context-management-2025-06-27"]


def loop(num_calls: int, size: int = 400) -> list[dict[str, Any]]:
    """Make a question and calls, with thoughts, whose results have `size` characters."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Begin"}]
    for i in range(num_calls):
        call = {"type": "tool_use", "id": f"t{i}", "name": "Bash", "input": {"command": f"run-{i}"}}
        result = {"type": "tool_result", "tool_use_id": f"t{i}", "content": f"result-{i};".ljust(size, ".")}
        messages += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    return messages


def clear(**rule: Any) -> dict[str, Any]:
    return {"edits": [{"type": "clear_tool_uses_20250919", **rule}]}


def uses(count: int) -> dict[str, Any]:
    return {"type": "tool_uses", "value": count}


def tokens(count: int) -> dict[str, Any]:
    return {"type": "input_tokens", "value": count}


def edited(messages: list[dict[str, Any]], management: Any, num_tokens: int = 1000) -> str:
    """Return what is left of a conversation; all its prompts have `num_tokens` tokens."""
    fields = {"model": "m", "messages": messages, "tools": [BASH], "context_management": management}
    found = edit_context(CountTokensRequest.model_validate(fields), lambda _: num_tokens)
    return "".join(message.model_dump_json() for message in found.request.messages)


def results(text: str, count: int = 9) -> list[int]:
    return [i for i in range(count) if f"result-{i};" in text]


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),  # the prompt is too short
        ({"trigger": tokens(999)}, [3, 4, 5]),
        ({"trigger": tokens(1000)}, [0, 1, 2, 3, 4, 5]),
        ({"trigger": uses(5), "keep": uses(1)}, [5]),
        ({"trigger": uses(6)}, [0, 1, 2, 3, 4, 5]),
        ({"trigger": uses(0), "keep": uses(0)}, []),
        ({"trigger": uses(0), "keep": uses(9)}, [0, 1, 2, 3, 4, 5]),
        ({"trigger": uses(0), "exclude_tools": ["Bash"]}, [0, 1, 2, 3, 4, 5]),
        ({"trigger": uses(0), "exclude_tools": ["Read"]}, [3, 4, 5]),
        ({"trigger": uses(0), "clear_at_least": tokens(150)}, [2, 3, 4, 5]),  # in groups of two
        ({"trigger": uses(0), "clear_at_least": tokens(1000)}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_the_oldest_results_go_first(rule: dict[str, Any], left: list[int]) -> None:
    text = edited(loop(6), clear(**rule))
    assert results(text) == left
    assert text.count(CLEARED) == 6 - len(left)
    assert all(f"run-{i}" in text for i in range(6))


def test_a_result_that_is_no_longer_than_the_note_stays() -> None:
    for size in (len(CLEARED), len(CLEARED) + 1):
        text = edited(loop(6, size), clear(trigger=uses(0)))
        assert text.count(CLEARED) == 3 * (size > len(CLEARED))
    text = edited(loop(6, 1), clear(trigger=uses(0), clear_tool_inputs=True))
    assert (text.count(CLEARED), text.count("run-"), len(results(text))) == (0, 3, 6)


@pytest.mark.parametrize(("wish", "goes"), [(True, True), (["Bash"], True), (["Read"], False), (None, False)])
def test_arguments_go_where_the_client_says_so(wish: Any, goes: bool) -> None:
    text = edited(loop(6), clear(trigger=uses(0), clear_tool_inputs=wish))
    assert [f"run-{i}" in text for i in range(6)] == [not goes] * 3 + [True] * 3


@settings(max_examples=50)
@given(st.integers(0, 12), st.integers(0, 4), st.integers(0, 400), st.integers(0, 900))
def test_what_was_left_out_stays_out(num_calls: int, keep: int, least: int, size: int) -> None:
    """And with `clear_at_least`, the prompt changes only where that much more is left out."""
    rule = clear(trigger=uses(0), keep=uses(keep), clear_at_least=tokens(least))
    left = [results(edited(loop(count, size), rule), count) for count in (num_calls, num_calls + 1)]
    assert set(left[1]) - set(left[0]) <= {num_calls}
    assert len(left[1]) >= min(keep, num_calls + 1)


@pytest.mark.parametrize(
    "rule", [{"keep": 3}, {"trigger": uses(-1)}, {"clear_at_least": uses(1)}, {"exclude_tools": "Bash"}]
)
def test_a_rule_that_means_nothing_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="context_management"):
        edited(loop(1), clear(**rule))


def test_the_defaults_are_the_apis() -> None:
    rule = ToolClearing(type="clear_tool_uses_20250919")
    assert (rule.trigger.value, rule.keep.value, rule.clears_input("Bash")) == (100_000, 3, False)


def test_response_stream_and_count_name_what_was_left_out(server: Server) -> None:
    sdk: anthropic.Anthropic = server.sdk()
    messages: Any = loop(5)
    for message in messages[1::2]:
        message["content"].insert(0, {"type": "thinking", "thinking": "thought-old", "signature": ""})
    messages += [{"role": "assistant", "content": "Done."}, {"role": "user", "content": "Again"}]
    thought = {"type": "thinking", "thinking": "thought-new", "signature": ""}
    last = {"type": "tool_use", "id": "t9", "name": "Bash", "input": {}}
    messages.append({"role": "assistant", "content": [thought, last]})
    messages.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t9"}]})
    keep_one = {"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns", "value": 1}}
    management: Any = {"edits": [keep_one, *clear(trigger=uses(2), keep=uses(2))["edits"]]}
    fields: Any = {"model": "default", "messages": messages, "tools": [BASH], "betas": BETAS}
    plain = sdk.beta.messages.count_tokens(**fields)
    count = sdk.beta.messages.count_tokens(**fields, context_management=management)
    whole = sdk.beta.messages.create(**fields, context_management=management, max_tokens=10)
    assert whole.context_management is not None
    thinking, cleared = whole.context_management.applied_edits
    assert (thinking.type, cleared.type) == ("clear_thinking_20251015", "clear_tool_uses_20250919")
    assert thinking.to_dict()["cleared_thinking_turns"] == 1
    assert cleared.to_dict()["cleared_tool_uses"] == 4
    with sdk.beta.messages.stream(**fields, context_management=management, max_tokens=10) as stream:
        (ending,) = [event for event in stream if event.type == "message_delta"]
    assert ending.context_management == whole.context_management
    assert count.context_management is not None
    assert count.input_tokens == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
    won = thinking.cleared_input_tokens + cleared.cleared_input_tokens
    assert count.context_management.original_input_tokens == count.input_tokens + won
    assert count.context_management.original_input_tokens >= plain.input_tokens
    assert "thought-old" not in server.prompt_text()


def test_edits_that_leave_nothing_out_are_not_named(server: Server) -> None:
    fields: Any = {"model": "default", "messages": loop(1), "tools": [BASH], "max_tokens": 10, "betas": BETAS}
    keep_all: Any = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    answer = server.sdk().beta.messages.create(**fields, context_management=keep_all)
    assert answer.context_management is not None
    assert answer.context_management.applied_edits == []
    assert server.sdk().beta.messages.create(**fields).context_management is None
