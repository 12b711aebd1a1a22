"""What is read of a model's tokens and tags when the server starts."""

import pytest

from pensieve.api.formats import harmony
from pensieve.api.formats.harmony import HarmonyText
from pensieve.api.formats.model_format import build_model_format
from pensieve.api.formats.thinking_tags import ThinkingTags
from pensieve.api.formats.tool_calls.native_formats import native_formats
from pensieve.api.formats.tool_calls.plain_format import plain_format

from ...fakes import ByteTokenizer
from .. import tokenizers

JSON_CALLS = plain_format()


def test_tags_and_special_tokens_are_read_once() -> None:
    found = build_model_format(ByteTokenizer(thinks=True), JSON_CALLS)
    assert (found.tool_calls.start, found.tool_calls.end) == ("<tool_call>", "</tool_call>")
    assert found.thinking == ThinkingTags("<think>", "</think>", "\n</think>\n\n", (10, 261, 10, 10))
    assert found.special_tokens["<think>"] == 260
    assert not found.is_harmony


def test_tags_count_as_special_tokens_though_the_tokenizer_says_otherwise() -> None:
    tokenizer = tokenizers.qwen()
    found = build_model_format(tokenizer, JSON_CALLS)
    assert {"<think>", "</think>", "<tool_call>", "</tool_call>"} <= found.special_tokens.keys()
    assert "<|fim_prefix|>" not in found.special_tokens


def test_a_template_that_shows_no_tools_has_the_plain_format() -> None:
    tokenizer = ByteTokenizer(harmony=True)
    plain = build_model_format(tokenizer, None)
    native = build_model_format(tokenizer, native_formats(tokenizer)[0])
    assert (plain.tool_calls.start, native.tool_calls.start) == ("<tool_call>", harmony.CALL_START)


@pytest.mark.parametrize("has_headers", [False, True])
def test_headers_become_tags_only_where_answers_have_them(has_headers: bool) -> None:
    found = build_model_format(ByteTokenizer(harmony=has_headers), None)
    assert isinstance(found.new_message_detokenizer(), HarmonyText) == found.is_harmony == has_headers
    assert not isinstance(found.new_detokenizer(), HarmonyText)


@pytest.mark.parametrize(("prompt", "starts"), [("Hi<think>\n", True), ("Hi<think>x", False), ("", False)])
def test_a_prompt_that_ends_with_the_tag_has_opened_thoughts(prompt: str, starts: bool) -> None:
    assert build_model_format(ByteTokenizer(thinks=True), None).starts_thinking(prompt) == starts
    assert not build_model_format(ByteTokenizer(), None).starts_thinking(prompt)
