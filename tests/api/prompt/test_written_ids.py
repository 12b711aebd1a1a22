"""Ids that models write in their calls, and results that are named by them."""

import pytest

from pensieve.api.prompt.template_messages import SHORT, model_turn, with_ids, with_own_ids
from pensieve.api.prompt.written_ids import written_ids


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ('[TOOL_CALLS] [{"name": "a", "arguments": {"id": 1}, "id": "abcdefghi"}]', ("abcdefghi",)),
        ('Well.[TOOL_CALLS][\n {"id": "x", "name": "a"}, {"tool_call_id": "y", "name": "b"}]', ("x", "y")),
        ('[TOOL_CALLS]a[CALL_ID]abc[ARGS]{"id": "no"}[TOOL_CALLS]b[CALL_ID]def[ARGS]{}', ("abc", "def")),
        ("<|tool_call:begin|>i1<|tool_call:name|>a<|tool_call:args|>{}<|tool_call:end|>", ("i1",)),
        ("<|tool_call_begin|>functions.a:3<|tool_call_argument_begin|>{}", ("functions.a:3",)),
        ('[{"name": "a", "id": "x"}, {"name": "b"}]', ()),
        ('[{"name": "a", "id": 5}]', ()),
        ('[{"name": "a", "id": ', ()),
        ("[1] " + "[{" * 9999, ()),
        ("nothing", ()),
    ],
)
def test_ids_are_those_of_calls(text: str, ids: tuple[str, ...]) -> None:
    assert written_ids(text) == ids


def test_a_call_and_its_result_are_shown_with_the_models_own_id() -> None:
    calls = [{"id": f"toolu_{name}", "function": {"name": name, "arguments": {}}} for name in "ab"]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": ""} for call in calls]
    asked = model_turn("") | {"tool_calls": calls}
    (first, *found), (second, *_) = (
        with_ids([message, *results], SHORT) for message in (with_own_ids(asked, ["x", "y"]), asked)
    )
    assert [call["id"] for call in first["tool_calls"]] == ["x", "y"]
    assert [result["tool_call_id"] for result in found] == ["x", "y"]
    assert all(set(call) == {"type", "id", "function"} for call in first["tool_calls"])
    assert len(second["tool_calls"][0]["id"]) == 9
