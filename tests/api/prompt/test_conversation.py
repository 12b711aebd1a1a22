"""What wire messages become for the template: the rules that keep prefixes stable."""

from typing import Any

import pytest

from pensieve.api.answer_options import answer_options
from pensieve.api.formats.thinking_signature import seal, unseal
from pensieve.api.formats.tool_calls.template_tools import head_tools
from pensieve.api.prompt.conversation import closing_instruction, template_messages
from pensieve.api.schema import CountTokensRequest


def request(**fields: Any) -> CountTokensRequest:
    return CountTokensRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | fields
    )


def messages(*wire: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return template_messages(request(messages=list(wire), **fields))


def tool(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "description": f"About {name}", "input_schema": {"type": "object"}} | fields


def test_a_string_and_one_block_are_the_same() -> None:
    block = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    assert messages({"role": "user", "content": "Hi"}) == messages({"role": "user", "content": [block]})
    assert request(system="Be brief.").system == request(system=[block | {"text": "Be brief."}]).system


def test_system_messages_stay_in_place() -> None:
    converted = messages(
        {"role": "user", "content": "Hi"},
        {"role": "system", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]},
        {"role": "assistant", "content": "Hello"},
        {"role": "system", "content": "C"},
    )
    assert [(message["role"], message["content"]) for message in converted] == [
        ("user", "Hi"),
        ("system", "A\nB"),
        ("assistant", "Hello"),
        ("system", "C"),
    ]


def test_a_turn_with_calls_and_results_keeps_ids_names_and_order() -> None:
    calls = [{"type": "tool_use", "id": f"t{i}", "name": "Bash", "input": {"n": i}} for i in (1, 2)]
    results = [
        {"type": "tool_result", "tool_use_id": "t1", "content": "one"},
        {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "two"}] * 2},
    ]
    converted = messages(
        {"role": "assistant", "content": [{"type": "text", "text": "Go."}, *calls]},
        {"role": "user", "content": [*results, {"type": "text", "text": "And?"}]},
    )
    assert converted == [
        {
            "role": "assistant",
            "content": "Go.",
            "tool_calls": [
                {"type": "function", "id": "t1", "function": {"name": "Bash", "arguments": {"n": 1}}},
                {"type": "function", "id": "t2", "function": {"name": "Bash", "arguments": {"n": 2}}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "name": "Bash", "content": "one"},
        {"role": "tool", "tool_call_id": "t2", "name": "Bash", "content": "two\ntwo\n\nAnd?"},
    ]


def test_texts_beside_results_belong_to_the_results_which_stand_in_their_calls_order() -> None:
    """As a question of their own they made templates drop the thoughts before them."""
    calls = [{"type": "tool_use", "id": f"t{i}", "name": "Bash", "input": {}} for i in (1, 2)]
    results = [{"type": "tool_result", "tool_use_id": f"t{i}", "content": f"result {i}"} for i in (2, 1)]
    texts = [{"type": "text", "text": text} for text in ("Before.", "Between.", "After.")]
    content = [texts[0], results[0], texts[1], results[1], texts[2]]
    converted = messages({"role": "assistant", "content": calls}, {"role": "user", "content": content})
    assert [message["content"] for message in converted[1:]] == [
        "Before.\n\nresult 1",
        "result 2\n\nBetween.\nAfter.",
    ]


@pytest.mark.parametrize(
    ("block", "shown"),
    [
        ({"type": "from_the_future", "text": "A", "id": "x"}, "[from_the_future]\nA"),
        ({"type": "container_upload", "file_id": "f"}, "[container_upload]\nfile_id: f"),
        (
            {"type": "tool_use", "name": "Bash", "input": {"command": "ls"}},
            "[tool_use]\nname: Bash\ncommand: ls",
        ),
        ({"type": "mcp_tool_result", "content": [{"type": "text", "text": "B"}]}, "[mcp_tool_result]\nB"),
        ({"type": "text", "text": 5}, "[text]\ntext: 5"),
        ("just words", "just words"),
    ],
)
def test_a_block_that_cannot_be_read_is_shown_as_text(block: Any, shown: str) -> None:
    """It stands in the history of a session, which a refusal would end."""
    assert messages({"role": "user", "content": [block]})[0]["content"] == shown


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("no such file", "Error: no such file"),
        ("Error: no such file", "Error: no such file"),
        ("<tool_use_error>bad</tool_use_error>", "<tool_use_error>bad</tool_use_error>"),
        (None, "Error: "),
    ],
)
def test_a_failed_call_says_so(content: str | None, shown: str) -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": content, "is_error": True}
    assert messages({"role": "user", "content": [result]})[0]["content"] == shown


def test_thoughts_are_passed_back_with_or_without_signature() -> None:
    thought = {"type": "thinking", "thinking": "Hm."}
    hidden = {"type": "redacted_thinking", "data": "xyz"}
    converted = messages(
        {
            "role": "assistant",
            "content": [thought | {"signature": "s"}, hidden, {"type": "text", "text": "Yes"}],
        },
        {"role": "assistant", "content": [thought]},
    )
    assert converted == [
        {"role": "assistant", "content": "Yes", "reasoning_content": "Hm."},
        {"role": "assistant", "content": "", "reasoning_content": "Hm."},
    ]


@pytest.mark.parametrize("text", ["Hm.", "Grüße\n😀", ""])
def test_omitted_thoughts_come_back_in_their_signature(text: str) -> None:
    block = {"type": "thinking", "thinking": "", "signature": seal(text)}
    (converted,) = messages({"role": "assistant", "content": [block, {"type": "text", "text": "Yes"}]})
    assert converted.get("reasoning_content", "") == text


@pytest.mark.parametrize(
    "signature", [None, "", "unsigned", "pensieve:", "pensieve:%%", "pensieve:é", "pensieve:/w=="]
)
def test_a_foreign_or_broken_signature_holds_no_thoughts(signature: str | None) -> None:
    assert unseal(signature) == ""


def test_deferred_tools_appear_where_they_are_loaded_and_not_at_the_head() -> None:
    tools = [
        tool("Bash"),
        tool("DeferredToolPlaceholder", defer_loading=True),
        tool("Late", defer_loading=True),
    ]
    reference = {"type": "tool_reference", "tool_name": "Late"}
    missing = {"type": "tool_reference", "tool_name": "Nowhere"}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [reference, missing]}
    built = request(tools=tools, messages=[{"role": "user", "content": [result]}])
    assert [entry["function"]["name"] for entry in head_tools(built.tools or [])] == ["Bash"]
    content = template_messages(built)[0]["content"]
    assert '"description": "About Late"' in content
    assert "[tool Nowhere is not available]" in content


def test_the_placeholder_tool_is_never_shown() -> None:
    assert head_tools(request(tools=[tool("DeferredToolPlaceholder")]).tools or []) == []


def test_a_wanted_schema_is_asked_for_in_words() -> None:
    config = {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert '{"type": "object"}' in closing_instruction(answer_options(request(output_config=config)))
    assert closing_instruction(answer_options(request(output_config={"effort": "high"}))) == ""


def test_unknown_fields_are_ignored() -> None:
    odd = {
        "context_management": {"edits": []},
        "safeguards": [{}],
        "thinking": {"type": "adaptive", "display": "omitted"},
        "metadata": {"user_id": "{}"},
    }
    assert request(**odd).messages == request().messages
