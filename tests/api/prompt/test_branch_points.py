"""Where prompts part: a checkpoint there, rounded down to a block, must lie in what they share."""

from functools import cache
from itertools import takewhile
from typing import Any

import pytest

from pensieve.api.prompt.branch_points import find_branch_points
from pensieve.api.prompt.prompt import Prompt, PromptBuilder
from pensieve.api.prompt.template import ChatTemplate

from ...fakes import ByteTokenizer, FakeModel
from .. import tokenizers
from ..builders import build_prompt, make_format

TOOLS = [{"name": "Bash", "description": "Runs a command. " * 20, "input_schema": {"type": "object"}}]
SYSTEM = ["You are an agent. " * 40, "You work in /home/a. " * 20]
SHAPES = {"qwen": tokenizers.qwen, "llama_3": tokenizers.llama_3, "phi_3": tokenizers.phi_3}


@cache
def builder(name: str) -> PromptBuilder:
    tokenizer: Any = SHAPES[name]()
    model = FakeModel(vocab_size=10**6, num_state_slots=9)
    return PromptBuilder(model, tokenizer, ChatTemplate(tokenizer), make_format(tokenizer))


def build(name: str, turns: list[tuple[str, str]], system: list[str] | None = None) -> Prompt:
    blocks = [{"type": "text", "text": text} for text in (SYSTEM if system is None else system)]
    messages = [{"role": role, "content": content} for role, content in turns]
    body = {"model": "m", "system": blocks, "tools": TOOLS, "messages": messages}
    return build_prompt(builder(name), body)


def num_shared(a: Prompt, b: Prompt) -> int:
    pairs = zip(a.tokens, b.tokens, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


QUESTION, ANSWER = "Mend the test <|im_end|> of the parser. " * 20, "It is mended. " * 20


TASK = [("user", QUESTION), ("assistant", ANSWER)]
TURNS = [*TASK, ("user", "Now commit.")]
OTHERS = {
    "another task": ([("user", "Something else.")], SYSTEM),
    "another folder": (TURNS, [SYSTEM[0], "You work in /srv. " * 20]),
    "the next turn": ([*TURNS, ("assistant", "Done."), ("user", "Thanks.")], SYSTEM),
    "an edited message": ([*TASK, ("user", "No: revert it.")], SYSTEM),
    "another answer": ([*TURNS, ("assistant", "Not so.")], SYSTEM),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("other", OTHERS)
def test_a_branch_point_lies_shortly_before_the_place_where_another_prompt_parts(
    name: str, other: str
) -> None:
    prompt = build(name, TURNS)
    parts_at = num_shared(prompt, build(name, *OTHERS[other]))
    nearest = max(point for point in prompt.branch_points if point <= parts_at)
    assert parts_at - nearest <= 20
    assert sorted(prompt.branch_points) == list(prompt.branch_points)
    assert prompt.branch_points[-1] < len(prompt.tokens)


def test_asking_for_branch_points_changes_no_token() -> None:
    tokenizer = tokenizers.qwen()
    plain = PromptBuilder(
        FakeModel(vocab_size=10**6), tokenizer, ChatTemplate(tokenizer), make_format(tokenizer)
    )
    body = {"model": "m", "messages": [{"role": "user", "content": QUESTION}]}
    without = build_prompt(plain, body)
    assert build_prompt(builder("qwen"), body).tokens == without.tokens
    assert without.branch_points == ()


def test_a_tokenizer_that_cannot_be_cut_has_none() -> None:
    tokenizer = ByteTokenizer()
    model = FakeModel(num_state_slots=9)
    whole = PromptBuilder(model, tokenizer, ChatTemplate(tokenizer), make_format(tokenizer))
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    assert build_prompt(whole, body).branch_points == ()


def test_a_text_that_the_template_shows_in_another_form_is_left_out() -> None:
    shown = [{"role": "user", "content": "  What is it?\n"}, {"role": "tool", "content": 'a "quoted" result'}]
    text = '<u>What is it?</u><t>a \\"quoted\\" result</t>'
    assert find_branch_points(text, [], shown) == [3, 14]
    assert find_branch_points(text, ["", "not shown"], []) == []
