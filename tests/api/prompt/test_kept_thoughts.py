"""Thoughts of earlier answers stay in the prompt where the client asks for it, in any template that can."""

from itertools import pairwise
from typing import Any

import pytest

from pensieve.api.schema import CountTokensRequest

from ...fakes import ByteTokenizer
from ...real.templates_on_disk import read_template, small_tokenizer, template_names
from ..builders import build_prompt, make_prompt_builder
from ..templates import DROPS_THOUGHTS, THOUGHTS_BY_SWITCH

BASH = {"name": "Bash", "description": "Runs", "input_schema": {"type": "object"}}

KEEPERS = (
    "GLM-4.6",
    "GLM-4.7-Flash",
    "MiniMax-M2",
    "Qwen-Qwen3-0.6B",
    "Qwen3.5-4B",
    "StepFun3.5-Flash",
    "openbmb-MiniCPM5-1B",
)
"""Real templates that drop earlier thoughts, and show them when they are asked to."""

WITHOUT_TEXT = (
    "google-gemma-4-31B-it",
    "google-gemma-4-31B-it-interleaved",
    "openai-gpt-oss-120b",
    "upstage-Solar-Open-100B",
)
"""Others, which show no text between thoughts and a call: where thoughts are kept, it stands behind them."""


def keep(value: Any) -> dict[str, Any]:
    return {"edits": [{"type": "clear_thinking_20251015", "keep": value}]}


def conversation(num_turns: int) -> list[dict[str, Any]]:
    """Make turns of a question, two answers with thoughts and calls, and one with thoughts alone."""
    messages: list[dict[str, Any]] = []
    for turn in range(num_turns):
        messages.append({"role": "user", "content": f"Question {turn}"})
        for step in range(2):
            call = {"type": "tool_use", "id": f"t{turn}{step}", "name": "Bash", "input": {"n": step}}
            said = [{"type": "text", "text": f"Words {turn}{step}."}] * step
            messages += [
                {"role": "assistant", "content": [thought(f"{turn}{step}"), *said, call]},
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": call["id"], "content": "ok"}],
                },
            ]
        answer = {"type": "text", "text": f"Answer {turn}."}
        messages.append({"role": "assistant", "content": [thought(f"{turn}2"), answer]})
    return messages


def thought(name: str) -> dict[str, str]:
    return {"type": "thinking", "thinking": f"thought-{name}", "signature": ""}


def prompts(tokenizer: Any, kept: Any) -> list[str]:
    """Render all requests of a conversation: those that end with words of the user, or with a result."""
    builder = make_prompt_builder(tokenizer, tokenizer.vocab_size + 1000)
    messages = conversation(3)
    ends = [end for end, message in enumerate(messages, 1) if message["role"] == "user"]
    fields = {"model": "m", "tools": [BASH], "thinking": {"type": "adaptive"}, "context_management": kept}
    return [
        tokenizer.decode(build_prompt(builder, fields | {"messages": messages[:end]}).tokens) for end in ends
    ]


@pytest.mark.parametrize("template", [DROPS_THOUGHTS, THOUGHTS_BY_SWITCH], ids=["frame", "switch"])
def test_a_turn_with_kept_thoughts_begins_with_the_turn_before(template: str) -> None:
    check_kept(ByteTokenizer(template))


@pytest.mark.parametrize("name", [name for name in template_names() if name in KEEPERS])
def test_real_templates_keep_thoughts(name: str) -> None:
    check_kept(small_tokenizer(read_template(name)))


@pytest.mark.parametrize("name", [name for name in template_names() if name in WITHOUT_TEXT])
def test_real_templates_that_show_no_text_beside_calls_keep_thoughts(name: str) -> None:
    check_kept(small_tokenizer(read_template(name)), num_alike=2)


def check_kept(tokenizer: Any, num_alike: int = 3) -> None:
    """num_alike: the first prompts, of the loop under way, that look as the template shows it."""
    kept, dropped = prompts(tokenizer, keep("all")), prompts(tokenizer, None)
    for shorter, longer in pairwise(kept):
        end = max(shorter.rfind(words) for words in ("Question", "Result"))
        assert longer.startswith(shorter[: end + len("Question 0")])
    assert [kept[-1].count(f"thought-{turn}{step}") for turn in range(2) for step in range(3)] == [1] * 6
    assert "thought-00" not in dropped[-1]
    assert kept[:num_alike] == dropped[:num_alike]


@pytest.mark.parametrize(("value", "first"), [(1, "20"), ({"type": "thinking_turns", "value": 2}, "10")])
def test_thoughts_of_older_turns_are_left_out(value: Any, first: str) -> None:
    text = prompts(ByteTokenizer(DROPS_THOUGHTS), keep(value))[-1]
    assert text.find("thought-") == text.find(f"thought-{first}") >= 0


@pytest.mark.parametrize(
    "odd",
    [None, [], {}, {"edits": None}, {"edits": [3, {"type": 4}]}, keep(None), keep(0), keep({}), keep([1])],
)
def test_an_odd_wish_is_ignored(odd: Any) -> None:
    """It must not end a session."""
    fields = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "context_management": odd}
    context = CountTokensRequest.model_validate(fields).context
    assert context is None or context.kept_thoughts is None
