"""Chat templates of several families: what is found out about each, and what it is then made to render."""

from typing import Any

import pytest

from pensieve.api.answer_options import ThinkingOptions
from pensieve.api.prompt.own_template import TemplateFeatures
from pensieve.api.prompt.raw_template import BrokenTemplate, TemplateError, TemplateTooSlow
from pensieve.api.prompt.template import ChatTemplate
from pensieve.api.prompt.thinking import ThinkingFeatures

from ...fakes import CHATML_TEMPLATE, ByteTokenizer
from .. import tokenizers
from ..templates import (
    NINE_LETTERS,
    NO_CALLS,
    NO_TOOLS,
    STRICT,
    SYSTEM_FIRST_ONLY,
    SYSTEM_THEN_TOOLS,
    THINKS_IN_ITS_OWN_WORDS,
    TOOLS_WITH_USER,
)

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "Bash", "description": "Runs a command", "parameters": {"type": "object"}},
}
CALL = {"type": "function", "id": "t1", "function": {"name": "Bash", "arguments": {"command": "ls"}}}
USER: dict[str, Any] = {"role": "user", "content": "List the files."}
ASSISTANT: dict[str, Any] = {"role": "assistant", "content": "Sure.", "tool_calls": [CALL]}
RESULT: dict[str, Any] = {"role": "tool", "tool_call_id": "t1", "name": "Bash", "content": "a.txt"}
LATER: dict[str, Any] = {"role": "system", "content": "It is Monday."}


def template(text: str, parses_calls: bool = True) -> ChatTemplate:
    tokenizer = ByteTokenizer(text) if parses_calls else ByteTokenizer(text, tool_parser=None)
    return ChatTemplate(tokenizer)


def render(
    chat: ChatTemplate, *messages: dict[str, Any], system: str = "Be brief.", tools: Any = (TOOL,)
) -> str:
    return chat.render(system, messages, list(tools), ThinkingOptions())


@pytest.mark.parametrize(
    ("text", "parses_calls", "features"),
    [
        (CHATML_TEMPLATE, True, TemplateFeatures(True, True, thoughts_key="reasoning_content")),
        (SYSTEM_THEN_TOOLS, True, TemplateFeatures(True, True, thinking=ThinkingFeatures("enable_thinking"))),
        (
            THINKS_IN_ITS_OWN_WORDS,
            False,
            TemplateFeatures(True, thoughts_key="thinking", thinking=ThinkingFeatures("thinking")),
        ),
        (TOOLS_WITH_USER, False, TemplateFeatures(True, True)),
        (NO_TOOLS, False, TemplateFeatures(True)),
        (NO_TOOLS, True, TemplateFeatures(True)),
        (STRICT, False, TemplateFeatures()),
        (SYSTEM_FIRST_ONLY, True, TemplateFeatures(True, True, text_arguments=True)),
        (NINE_LETTERS, True, TemplateFeatures(False, True, tools_apart=True, id_form="short")),
    ],
)
def test_probes_find_out_what_a_template_can_do(
    text: str, parses_calls: bool, features: TemplateFeatures
) -> None:
    assert template(text, parses_calls).features == features


@pytest.mark.parametrize("text", [CHATML_TEMPLATE, SYSTEM_THEN_TOOLS, SYSTEM_FIRST_ONLY])
def test_tools_come_before_the_system_text(text: str) -> None:
    rendered = render(template(text), USER)
    assert (
        0 <= rendered.find("Runs a command") < rendered.find("Be brief.") < rendered.find("List the files.")
    )


def test_a_template_with_tools_last_is_turned_round_exactly() -> None:
    chat = template(SYSTEM_THEN_TOOLS)
    rendered = render(chat, USER, system="  Be brief.\n")
    assert rendered.startswith("<|im_start|>system\n# Functions\n\nThese can be called:\n<tools>\n{")
    assert "\n</tools>\n\n  Be brief.\n<|im_end|>\n<|im_start|>user\nList the files.<|im_end|>" in rendered


def test_two_system_texts_share_the_tools_as_their_prefix() -> None:
    chat = template(SYSTEM_THEN_TOOLS)
    one, other = render(chat, USER, system="Be brief."), render(chat, USER, system="Talk at length.")
    shared = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    assert one[:shared].endswith("</tools>\n\n")


def test_without_tools_or_system_text_nothing_is_moved() -> None:
    chat = template(SYSTEM_THEN_TOOLS)
    assert render(chat, USER, tools=()).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user"
    )
    assert render(chat, USER, system="").startswith("<|im_start|>system\n# Functions")


def test_a_system_text_in_the_middle_stays_in_place_where_it_may() -> None:
    rendered = render(template(SYSTEM_THEN_TOOLS), USER, LATER, ASSISTANT, RESULT)
    assert "List the files.<|im_end|>\n<|im_start|>system\nIt is Monday.<|im_end|>" in rendered


def test_a_refused_system_text_becomes_a_reminder_in_the_user_turn() -> None:
    rendered = render(template(STRICT, parses_calls=False), USER, LATER, tools=())
    assert rendered == (
        "<start_of_turn>user\n<system-reminder>\nBe brief.\n</system-reminder>\nList the files.\n"
        "<system-reminder>\nIt is Monday.\n</system-reminder><end_of_turn>\n<start_of_turn>model\n"
    )


def test_a_template_without_tools_gets_them_described_in_the_system_text() -> None:
    chat = template(NO_TOOLS, parses_calls=False)
    result = chat.render("Be brief.", [USER, ASSISTANT, RESULT, USER], [TOOL], ThinkingOptions())
    assert not chat.features.native_tools
    assert result.startswith("<|system|>\n# Tools\n")
    assert '{"name": "Bash", "description": "Runs a command"' in result
    assert "</tools>\n\nBe brief.<|end|>\n<|user|>" in result
    assert 'Sure.\n<tool_call>\n{"name": "Bash", "arguments": {"command": "ls"}}\n</tool_call>' in result
    assert (
        "<|user|>\n<tool_response>\na.txt\n</tool_response><|end|>\n<|user|>\nList the files.<|end|>"
        in result
    )


def test_a_template_of_calls_without_tools_gets_them_described_by_an_example_of_its_own() -> None:
    """DeepSeek V3.1's shows calls and results, and leaves it to the system text to name the tools."""
    text = SYSTEM_THEN_TOOLS.replace("if tools %", "if false %")
    chat = template(text)
    result = chat.render("Be brief.", [USER, ASSISTANT, RESULT], [TOOL], ThinkingOptions())
    assert chat.features.tools_described
    example = (
        '<tool_call>\n{"name": "the tool\'s name", "arguments": {"an argument": "its value"}}\n</tool_call>'
    )
    assert result.index(example) < result.index("Runs a command") < result.index("Be brief.")
    assert '<tool_call>\n{"name": "Bash", "arguments": {"command": "ls"}}\n</tool_call>' in result
    assert "several calls" in str(chat.abilities)


def test_arguments_are_text_where_the_template_wants_text() -> None:
    rendered = render(template(SYSTEM_FIRST_ONLY), USER, ASSISTANT, RESULT)
    assert '"arguments": {"command": "ls"}}</tool_call>' in rendered


@pytest.mark.parametrize("text", [CHATML_TEMPLATE, SYSTEM_THEN_TOOLS, NO_TOOLS, STRICT, SYSTEM_FIRST_ONLY])
def test_a_longer_conversation_begins_with_the_shorter_one(text: str) -> None:
    chat = template(text, parses_calls=text not in (NO_TOOLS, STRICT))
    turns = [USER, LATER, ASSISTANT, RESULT, {"role": "assistant", "content": "One file."}, USER, LATER]
    full = chat.render("Be brief.", turns, [TOOL], ThinkingOptions(wanted=True))
    for length in (2, 4):
        assert full.startswith(chat.render("Be brief.", turns[:length], [TOOL], ThinkingOptions(wanted=True)))


def test_thoughts_are_sent_back_where_the_template_looks_for_them() -> None:
    chat = template(THINKS_IN_ITS_OWN_WORDS, parses_calls=False)
    thought = {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
    assert "[assistant]<think>Hm.</think>Yes.[user]" in render(chat, USER, thought, USER)
    assert "Hm." not in render(template(SYSTEM_THEN_TOOLS), USER, thought, USER)


def test_thinking_is_switched_by_the_templates_own_name_for_it() -> None:
    chat = template(THINKS_IN_ITS_OWN_WORDS, parses_calls=False)
    ends = [chat.render("", [USER], [], ThinkingOptions(thinking))[-7:] for thinking in (True, False)]
    assert ends == ["<think>", "/think>"]


def test_what_a_template_raises_is_a_refusal() -> None:
    refusal = "{{- raise_exception('no odd words') if 'odd' in messages[-1].content }}"
    with pytest.raises(TemplateError, match="no odd words"):
        render(template(refusal + NO_TOOLS), {"role": "user", "content": "Be odd."}, system="", tools=())


def test_a_template_with_a_syntax_error_is_refused_at_the_start() -> None:
    """It was served, and each request failed."""
    with pytest.raises(BrokenTemplate, match="syntax error in line 2"):
        template("{{ messages }}\n{% if %}")


@pytest.mark.parametrize("code", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"])
def test_a_template_reaches_nothing_of_python(code: str) -> None:
    """With the tokenizer and the code that a served model has."""
    tokenizer = tokenizers.qwen()
    tokenizer.chat_template = CHATML_TEMPLATE
    assert render(ChatTemplate(tokenizer), USER)
    tokenizer.chat_template = code + CHATML_TEMPLATE
    with pytest.raises(TemplateError, match="is unsafe"):
        render(ChatTemplate(tokenizer), USER)


LOOPS = "{%- for i in range(99999) %}{%- for j in range(99999) %}{%- endfor %}{%- endfor %}"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_template_that_never_ends_is_refused_at_the_start() -> None:
    with pytest.raises(TemplateTooSlow, match="does not come to an end"):
        ChatTemplate(ByteTokenizer(LOOPS + CHATML_TEMPLATE), limit_s=0.05)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_conversation_that_a_template_never_ends_with_is_refused() -> None:
    trap = (
        "{%- for message in messages %}{%- if 'trap' in message.content %}"
        + LOOPS
        + "{%- endif %}{%- endfor %}"
    )
    chat = ChatTemplate(ByteTokenizer(trap + CHATML_TEMPLATE), limit_s=0.3)
    assert render(chat, USER)
    with pytest.raises(TemplateTooSlow):
        render(chat, {"role": "user", "content": "a trap"})
    assert render(chat, USER)


@pytest.mark.parametrize(
    ("before", "is_native"), [("<|python_start|><|python_end|>", True), ("Call: ", False)]
)
def test_a_call_without_tags_must_stand_where_an_answer_begins(before: str, is_native: bool) -> None:
    """Marks around an answer's text may stand before it, as Llama 4's template writes them."""
    chat = template(TOOLS_WITH_USER.replace('{"name": "\' +', before + '{"name": "\' +'), parses_calls=False)
    assert chat.features.native_tools == is_native


def test_calls_are_written_for_a_template_that_shows_tools_but_no_calls() -> None:
    chat = template(NO_CALLS, parses_calls=False)
    text = render(chat, USER, ASSISTANT, RESULT)
    assert 'Sure.<|tool_call|>[{"name": "Bash", "arguments": {"command": "ls"}}]<|im_end|>' in text
    assert "<|im_start|>tool\na.txt<|im_end|>" in text
    assert "# Tools" not in text
    assert chat.abilities.several_calls
