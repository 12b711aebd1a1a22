"""Requests' words about thinking in those of each family's template."""

from typing import Any

import pytest

from pensieve.api.answer_options import ThinkingOptions
from pensieve.api.formats.thinking_signature import seal
from pensieve.api.prompt.prompt import Prompt
from pensieve.api.prompt.template import ChatTemplate
from pensieve.api.prompt.thinking import ThinkingFeatures, find_thinking_features

from ...fakes import ByteTokenizer
from ..builders import build_prompt, make_prompt_builder
from ..templates import (
    ALWAYS_THINKS,
    BUDGET_IN_TOKENS,
    EFFORTS_OF_ITS_OWN,
    MESSAGES_WITH_HEADERS,
    NO_TOOLS,
    SWITCH_IN_THE_QUESTION,
    THINKS_BY_DEFAULT,
    THINKS_IN_ITS_OWN_WORDS,
)

HELLO = {"role": "user", "content": "Hello"}
CALL = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "a.txt"}]}
BASH = {"name": "Bash", "description": "Runs", "input_schema": {"type": "object"}}


def build(template: str, *messages: Any, harmony: bool = False, **fields: Any) -> tuple[Prompt, str]:
    tokenizer = ByteTokenizer(template, thinks=not harmony, harmony=harmony)
    body = {"model": "m", "messages": messages or (HELLO,)} | fields
    builder = make_prompt_builder(tokenizer, tokenizer.vocab_size)
    prompt = build_prompt(builder, body)
    return prompt, tokenizer.decode(prompt.tokens)


@pytest.mark.parametrize(
    ("template", "thinking"),
    [
        (THINKS_BY_DEFAULT, ThinkingFeatures("enable_thinking")),
        (ALWAYS_THINKS, ThinkingFeatures()),
        (SWITCH_IN_THE_QUESTION, ThinkingFeatures("enable_thinking")),
        (THINKS_IN_ITS_OWN_WORDS, ThinkingFeatures("thinking")),
        (MESSAGES_WITH_HEADERS, ThinkingFeatures(efforts=("low", "medium", "high"))),
        (EFFORTS_OF_ITS_OWN, ThinkingFeatures(efforts=("none", "high"))),
        (BUDGET_IN_TOKENS, ThinkingFeatures(has_budget=True)),
        (NO_TOOLS, ThinkingFeatures()),
    ],
)
def test_what_a_template_understands_is_found_out(template: str, thinking: ThinkingFeatures) -> None:
    assert ChatTemplate(ByteTokenizer(template)).features.thinking == thinking


@pytest.mark.parametrize(
    ("template", "thinking", "ending", "starts"),
    [
        (THINKS_BY_DEFAULT, "adaptive", "<|im_start|>assistant\n", False),
        (THINKS_BY_DEFAULT, "enabled", "<|im_start|>assistant\n", False),
        (THINKS_BY_DEFAULT, "disabled", "<think>\n\n</think>\n\n", False),
        (THINKS_BY_DEFAULT, None, "<think>\n\n</think>\n\n", False),
        (ALWAYS_THINKS, "adaptive", "<Assistant><think>\n", True),
        (ALWAYS_THINKS, None, "<Assistant><think>\n", True),
        (ALWAYS_THINKS, "disabled", "<think>\n\n</think>\n\n", False),
        (SWITCH_IN_THE_QUESTION, "adaptive", "Hello<|assistant|>", False),
        (SWITCH_IN_THE_QUESTION, "disabled", "Hello/nothink<|assistant|>\n<think></think>", False),
        (THINKS_IN_ITS_OWN_WORDS, "adaptive", "[assistant]<think>", True),
        (THINKS_IN_ITS_OWN_WORDS, "disabled", "[assistant]</think>", False),
    ],
)
def test_a_request_switches_thinking(template: str, thinking: str | None, ending: str, starts: bool) -> None:
    prompt, text = build(template, thinking={"type": thinking} if thinking else None)
    assert text.endswith(ending)
    assert prompt.starts_thinking == starts


@pytest.mark.parametrize(
    ("template", "wanted", "effort", "shown"),
    [
        (MESSAGES_WITH_HEADERS, False, "high", "Reasoning: low"),
        (MESSAGES_WITH_HEADERS, True, None, "Reasoning: medium"),
        (MESSAGES_WITH_HEADERS, True, "minimal", "Reasoning: low"),
        (MESSAGES_WITH_HEADERS, True, "high", "Reasoning: high"),
        (MESSAGES_WITH_HEADERS, True, "max", "Reasoning: high"),
        (MESSAGES_WITH_HEADERS, True, "so so", "Reasoning: medium"),
        (EFFORTS_OF_ITS_OWN, True, "medium", "[EFFORT]high"),
        (EFFORTS_OF_ITS_OWN, True, "low", "[EFFORT]none"),
        (EFFORTS_OF_ITS_OWN, False, None, "[EFFORT]none"),
    ],
)
def test_an_effort_is_put_into_the_nearest_that_the_template_knows(
    template: str, wanted: bool, effort: str | None, shown: str
) -> None:
    thinking = {"type": "adaptive" if wanted else "disabled"}
    assert shown in build(template, thinking=thinking, output_config={"effort": effort})[1]


def test_a_budget_reaches_a_template_that_asks_for_one() -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    assert "At most 1024 tokens" in build(BUDGET_IN_TOKENS, thinking=thinking)[1]
    assert "At most 0 tokens" in build(BUDGET_IN_TOKENS)[1]
    assert "At most" not in build(BUDGET_IN_TOKENS, thinking={"type": "adaptive"})[1]


@pytest.mark.parametrize("omitted", [False, True])
@pytest.mark.parametrize(
    ("template", "harmony", "step", "turn"),
    [
        (THINKS_BY_DEFAULT, False, "<think>\nHm.\n</think>\n\n\n<tool_call>", None),
        (SWITCH_IN_THE_QUESTION, False, "<think>Hm.</think>", "<think>Hm.</think>\nYes."),
        (ALWAYS_THINKS, False, None, None),
        (MESSAGES_WITH_HEADERS, True, "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=", None),
    ],
)
def test_thoughts_come_back_where_the_template_wants_them(
    template: str, harmony: bool, omitted: bool, step: str | None, turn: str | None
) -> None:
    """In a step of the turn that goes on, and in a turn that is over; None where the template drops them."""
    thought = {"type": "thinking", "thinking": "" if omitted else "Hm.", "signature": seal("Hm.")}
    calling = {"role": "assistant", "content": [thought, CALL]}
    _, text = build(template, HELLO, calling, RESULT, tools=[BASH], harmony=harmony)
    assert (step or "Hm.") in text if step else "Hm." not in text
    over = {"role": "assistant", "content": [thought, {"type": "text", "text": "Yes."}]}
    _, text = build(template, HELLO, over, HELLO, tools=[BASH], harmony=harmony)
    assert turn in text if turn else "Hm." not in text


def test_words_before_a_call_stay_where_thoughts_beside_them_are_refused() -> None:
    blocks = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Let me look."}, CALL]
    messages = [HELLO, {"role": "assistant", "content": blocks}, RESULT]
    _, text = build(MESSAGES_WITH_HEADERS, *messages, tools=[BASH], harmony=True)
    assert "<|message|>Hm.\n\nLet me look.<|end|><|start|>assistant to=functions.Bash" in text


def test_settings_of_a_template_without_a_switch_are_empty() -> None:
    assert ThinkingFeatures().settings(ThinkingOptions(wanted=True, effort="high", num_tokens=5)) == {}


def test_an_answer_to_continue_is_past_its_thoughts() -> None:
    """It was continued within the thoughts that the template had opened."""
    start = {"role": "assistant", "content": "The sum is"}
    prompt, text = build(ALWAYS_THINKS, HELLO, start, thinking={"type": "enabled"})
    assert text.endswith("<Assistant><think>\n\n</think>\n\nThe sum is")
    assert not prompt.starts_thinking


@pytest.mark.parametrize(
    ("asked", "put"),
    [("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "xhigh"), ("max", "xhigh")],
)
def test_efforts_beyond_the_usual_are_found_where_unknown_ones_are_taken_for_medium(
    asked: str, put: str
) -> None:
    """As Qwen3.8's template has them: it knows low, medium and xhigh."""

    def render(settings: dict[str, Any]) -> str:
        effort = settings.get("reasoning_effort")
        return effort if effort in ("low", "xhigh") else "medium"

    features = find_thinking_features(render)
    assert features.efforts == ("low", "medium", "xhigh")
    assert features.settings(ThinkingOptions(True, asked)) == {"reasoning_effort": put}


def test_what_the_request_leaves_open_is_left_to_the_template() -> None:
    features = ThinkingFeatures("enable_thinking", ("low", "high"), has_budget=True)
    assert features.settings(ThinkingOptions(None)) == {}
    assert features.settings(ThinkingOptions(None, variables=(("style", "x"),))) == {"style": "x"}
