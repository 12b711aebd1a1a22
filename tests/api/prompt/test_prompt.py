"""Prompts: what the fields of a request do to the tokens."""

import asyncio
import threading
from typing import Any

import pytest

from pensieve.api.answer_options import answer_options
from pensieve.api.errors import InvalidRequest
from pensieve.api.prompt.prompt import Prompt
from pensieve.api.schema import CountTokensRequest

from ...fakes import CHATML_TEMPLATE, ByteTokenizer
from ..builders import build_prompt, make_prompt_builder
from ..templates import SYSTEM_THEN_TOOLS

OPENS_THOUGHTS = CHATML_TEMPLATE + "{%- if enable_thinking %}{{- '<think>\n' }}{%- endif %}"
BASH = {"name": "Bash", "input_schema": {"type": "object"}}


def build(tokenizer: ByteTokenizer, **fields: Any) -> tuple[Prompt, str]:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | fields
    prompt = build_prompt(make_prompt_builder(tokenizer), body)
    return prompt, tokenizer.decode(prompt.tokens)


def test_thinking_reaches_the_template_and_its_opening_is_noticed() -> None:
    tokenizer = ByteTokenizer(OPENS_THOUGHTS, thinks=True)
    for thinking, opened in (({"type": "adaptive"}, True), ({"type": "disabled"}, False), (None, False)):
        prompt, text = build(tokenizer, thinking=thinking)
        assert prompt.starts_thinking == opened == text.endswith("<think>\n")


def test_thoughts_that_a_template_opens_always_are_closed_where_they_are_forbidden() -> None:
    """Left out is not forbidden."""
    tokenizer = ByteTokenizer(CHATML_TEMPLATE + "{{- '<think>\n' }}", thinks=True)
    prompt, text = build(tokenizer, thinking={"type": "disabled"})
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not prompt.starts_thinking
    assert prompt.tokens.count(tokenizer.encode("</think>")[0]) == 1
    assert build(tokenizer)[0].starts_thinking


def test_an_instruction_stands_before_the_words_to_be_continued() -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}]
    choice = {"type": "tool", "name": "Bash"}
    _, text = build(ByteTokenizer(), messages=messages, tools=[BASH], tool_choice=choice)
    assert text.endswith("must be a call of the tool Bash.<|im_end|>\n<|im_start|>assistant\nWell")


def test_what_is_asked_for_at_the_end_leaves_the_prefix_alone() -> None:
    _, plain = build(ByteTokenizer(), tools=[BASH])
    _, chosen = build(ByteTokenizer(), tools=[BASH], tool_choice={"type": "none"})
    assert chosen.startswith(plain.removesuffix("<|im_start|>assistant\n"))


def test_the_moving_cache_mark_changes_nothing() -> None:
    marked = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    one, _ = build(ByteTokenizer(SYSTEM_THEN_TOOLS), messages=[{"role": "user", "content": [marked]}])
    other, _ = build(ByteTokenizer(SYSTEM_THEN_TOOLS))
    assert one.tokens == other.tokens


def test_loading_a_deferred_tool_keeps_the_prefix() -> None:
    late = {"name": "Late", "input_schema": {"type": "object"}, "defer_loading": True}
    turns: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
    _, before = build(ByteTokenizer(), messages=turns, tools=[BASH])
    turns += [
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t", "name": "ToolSearch", "input": {}}],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": [{"type": "tool_reference", "tool_name": "Late"}],
                }
            ],
        },
    ]
    _, after = build(ByteTokenizer(), messages=turns, tools=[BASH, late])
    assert after.startswith(before)
    assert '"name": "Late"' in after


def test_a_token_without_an_embedding_is_refused() -> None:
    """MLX reads past the end of the embeddings without a word."""
    tokenizer = ByteTokenizer()
    builder = make_prompt_builder(tokenizer, 257)
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    with pytest.raises(InvalidRequest, match="special token"):
        build_prompt(builder, body)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        build(ByteTokenizer("{{ '' }}"))


def test_an_answer_with_nothing_before_it_is_continued() -> None:
    """Templates that count on a first turn refused it."""
    strict = "{%- if messages[-1].role != 'user' %}{{ raise_exception('no user') }}{%- endif %}"
    _, text = build(
        ByteTokenizer(strict + CHATML_TEMPLATE), messages=[{"role": "assistant", "content": "Once upon"}]
    )
    assert text.endswith("<|im_start|>assistant\nOnce upon")


def test_prompts_are_tokenised_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight prompts wait for each other within the tokenizer: in fewer threads, none of them would end."""
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    barrier = threading.Barrier(8)

    class MeetingTokenizer(ByteTokenizer):
        def encode(self, text: str, /, *, add_special_tokens: bool = False) -> list[int]:
            barrier.wait(20)
            return super().encode(text, add_special_tokens=add_special_tokens)

    async def build_all() -> list[Prompt]:
        builder = make_prompt_builder(MeetingTokenizer())
        bodies = [{"model": "m", "messages": [{"role": "user", "content": f"Hi {i}"}]} for i in range(8)]
        requests = [CountTokensRequest.model_validate(body) for body in bodies]
        built = await asyncio.gather(*(builder.build(r, answer_options(r)) for r in requests))
        return [prompt for prompt, _ in built]

    prompts = asyncio.run(build_all())
    texts = [ByteTokenizer().decode(prompt.tokens) for prompt in prompts]
    assert all(f"Hi {i}" in text for i, text in enumerate(texts))
