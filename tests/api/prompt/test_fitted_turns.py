"""Turns in the forms that templates show: what is refused, left out or moved is shown otherwise."""

from typing import Any

import pytest

from pensieve.api.answer_options import ThinkingOptions
from pensieve.api.prompt.conversation_turns import EMPTY, NO_RESULT
from pensieve.api.prompt.template import ChatTemplate

from ...fakes import CHATML_TEMPLATE, ByteTokenizer
from ...real.conversations import conversations, seen_words
from ..builders import build_prompt, make_prompt_builder
from ..templates import (
    MESSAGES_WITH_HEADERS,
    NINE_LETTERS,
    NO_TOOLS,
    STRICT,
    SYSTEM_FIRST_ONLY,
    THINKS_BY_DEFAULT,
    TOOLS_WITH_USER,
)

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "Bash", "description": "Runs", "parameters": {"type": "object", "properties": {}}},
}
USER: dict[str, Any] = {"role": "user", "content": "Hello."}
LATER: dict[str, Any] = {"role": "user", "content": "Stop."}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "Yes."}

TEMPLATES = {
    "chatml": CHATML_TEMPLATE,
    "nine letters": NINE_LETTERS,
    "headers": MESSAGES_WITH_HEADERS,
    "no tools": NO_TOOLS,
    "strict": STRICT,
    "thinks": THINKS_BY_DEFAULT,
    "tools with user": TOOLS_WITH_USER,
    "system first": SYSTEM_FIRST_ONLY,
}


def call(number: int = 1, text: str = "", thoughts: str = "", calls: int = 1) -> dict[str, Any]:
    function = {"name": "Bash", "arguments": {"command": f"ls {number}"}}
    listed = [{"type": "function", "id": f"toolu_{number}{i}", "function": function} for i in range(calls)]
    more = {"reasoning_content": thoughts} if thoughts else {}
    return {"role": "assistant", "content": text, "tool_calls": listed} | more


def result(number: int = 1, index: int = 0) -> dict[str, Any]:
    content = f"result {number}{index}"
    return {"role": "tool", "tool_call_id": f"toolu_{number}{index}", "name": "Bash", "content": content}


def render(template: str, *messages: dict[str, Any]) -> str:
    chat = ChatTemplate(ByteTokenizer(template, harmony=template == MESSAGES_WITH_HEADERS))
    return chat.render("", messages, [TOOL], ThinkingOptions())


@pytest.mark.parametrize("name", TEMPLATES)
def test_whatever_has_happened_is_shown_in_order_and_refused_never(name: str) -> None:
    """Of real templates, tests/real tries all."""
    template = TEMPLATES[name]
    tokenizer = ByteTokenizer(template, harmony=name == "headers")
    builder = make_prompt_builder(tokenizer, tokenizer.vocab_size)
    tool = {"name": "Bash", "description": "Runs", "input_schema": {"type": "object", "properties": {}}}
    for case, messages in conversations():
        body = {"model": "m", "system": "Be brief.", "messages": messages, "tools": [tool]}
        text = tokenizer.decode(build_prompt(builder, body).tokens)
        missing = [word for word in seen_words(messages) if word not in text]
        assert not missing, f"{case}: {text}"


def test_ids_are_written_as_the_template_wants_them() -> None:
    """Templates in Mistral's manner refused the server's own ids, at the second request of every session."""
    text = render(NINE_LETTERS, USER, call(), result())
    assert text.index("ls 1") < text.index("[RESULT]result 10[/RESULT]")


def test_tools_that_would_move_each_turn_stand_at_the_head() -> None:
    text = render(NINE_LETTERS, USER, ANSWER, LATER)
    assert text.startswith("[TOOLS]")
    assert text.index("[/TOOLS]") < text.index("Hello.")


def test_words_after_a_result_join_it_where_the_template_wants_turns_to_alternate() -> None:
    text = render(NINE_LETTERS, USER, call(), result(), LATER, ANSWER)
    assert "[RESULT]result 10\n\nStop.[/RESULT]" in text
    assert "<tool_response>\n" not in render(CHATML_TEMPLATE, USER, call(), result(), LATER)


def test_text_that_a_template_leaves_out_beside_a_call_stands_before_it() -> None:
    text = render(NINE_LETTERS, USER, call(text="I look."), result())
    assert text.index("I look.") < text.index("ls 1") < text.index("result 10")


def test_a_second_call_that_a_template_leaves_out_follows_the_first_ones_result() -> None:
    text = render(MESSAGES_WITH_HEADERS, USER, call(calls=2), result(), result(index=1))
    assert text.count("to=functions.Bash") == 2
    assert text.index("to=functions.Bash") < text.index("result 10") < text.rindex("to=functions.Bash")


def test_two_answers_in_a_row_are_joined_where_the_template_wants_turns_to_alternate() -> None:
    text = render(STRICT, USER, ANSWER, {"role": "assistant", "content": "And more."}, LATER)
    assert "<start_of_turn>model\nYes.\n\nAnd more.<end_of_turn>" in text


def test_a_call_without_a_result_gets_a_note_and_a_result_without_a_call_is_the_users_words() -> None:
    text = render(CHATML_TEMPLATE, result(9), call(), LATER)
    assert "<|im_start|>user\nResult of Bash:\nresult 90<|im_end|>" in text
    assert f"<|im_start|>tool\n{NO_RESULT}<|im_end|>\n<|im_start|>user\nStop." in text


def test_an_empty_answer_is_left_out_and_an_empty_message_gets_a_note() -> None:
    text = render(
        CHATML_TEMPLATE, USER, {"role": "assistant", "content": ""}, {"role": "user", "content": ""}
    )
    assert text.endswith(
        f"user\nHello.<|im_end|>\n<|im_start|>user\n{EMPTY}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_says_what_it_shows() -> None:
    abilities = ChatTemplate(ByteTokenizer(NINE_LETTERS)).abilities
    assert str(abilities) == (
        "shows tools, several calls; rewritten for it: text with a call, words after a result, system text, "
        "system text in the middle; leaves out thoughts of earlier answers"
    )


def test_a_format_that_does_not_read_the_templates_call_is_not_used() -> None:
    """MiniMax-M3 was taken for plain JSON calls, because its template shows values between the same tags."""
    other = CHATML_TEMPLATE.replace("{'name':", "{'tool':")
    assert ChatTemplate(ByteTokenizer(CHATML_TEMPLATE)).features.native_tools
    assert not ChatTemplate(ByteTokenizer(other)).features.native_tools


def test_a_schema_that_a_template_cannot_print_is_described() -> None:
    loop = "{%- for tool in tools %}"
    picky = CHATML_TEMPLATE.replace(
        loop, loop + "{{- tool.function.parameters.properties.n.enum[0] + '' }}", 1
    )
    schema = {"type": "object", "properties": {"n": {"type": "integer", "enum": [1, 2]}}}
    tool = {"type": "function", "function": TOOL["function"] | {"parameters": schema}}
    chat = ChatTemplate(ByteTokenizer(picky))
    text = chat.render("", [USER], [tool], ThinkingOptions())
    assert '"enum": [1, 2]' in text.replace("\\", "")
