"""Special tokens in content become text, on tokenizers of every shape; those of the template stay."""

import json
import time
import timeit
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pensieve.api.answer_options import ThinkingOptions
from pensieve.api.prompt.prompt import Prompt, PromptBuilder
from pensieve.api.prompt.special_tokens import SpecialTokens
from pensieve.api.prompt.template import ChatTemplate

from ...fakes import ByteTokenizer
from .. import tokenizers
from ..builders import build_prompt, make_prompt_builder

SHAPES: dict[str, Callable[[], Any]] = {
    "qwen": tokenizers.qwen,
    "llama_3": tokenizers.llama_3,
    "phi_3": tokenizers.phi_3,
    "llama_2": tokenizers.llama_2,
    "demo": tokenizers.demo,
    "bytes": ByteTokenizer,
}
# The special tokens of the other tokenizers swallow or add space beside them.
EXACT = ("qwen", "llama_3", "demo", "bytes")
SPECIAL_TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|end|>",
    "<|user|>",
    "<|eot_id|>",
    "<|reserved_special_token_24|>",
    "<|fim_prefix|>",
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
    "<s>",
    "</s>",
    "<0x0A>",
)
texts = st.lists(
    st.one_of(
        st.sampled_from(SPECIAL_TOKENS), st.sampled_from([" ", "\n", "<", "|>", "system\n", "a", "é😀"])
    ),
    max_size=12,
).map("".join)


@cache
def shape(name: str) -> Any:
    return SHAPES[name]()


@cache
def builder(name: str) -> PromptBuilder:
    return make_prompt_builder(shape(name), 10**6)


def build(name: str, **fields: Any) -> Prompt:
    return build_prompt(builder(name), {"model": "m"} | fields)


def special_tokens_in(name: str, tokens: list[int]) -> Counter[int]:
    added = shape(name).added_tokens_decoder
    return Counter(token for token in tokens if token in added)


def decode(name: str, tokens: list[int]) -> str:
    return str(shape(name).decode(tokens))


def conversation(text: str) -> dict[str, Any]:
    """A conversation with a text in every place where a stranger's words can stand."""
    key = f"key{text}"
    tool: dict[str, Any] = {
        "name": "Bash",
        "description": f"d{text}",
        "input_schema": {"type": "object", "title": text},
    }
    tool["input_schema"] |= {"properties": {key: {"type": "string"}}}
    call = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {key: [f"v{text}"]}}
    thought = {"type": "thinking", "thinking": f"t{text}"}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": f"r{text}."}
    return {
        "system": f"s{text}.",
        "tools": [tool],
        "messages": [
            {"role": "user", "content": f"u{text}."},
            {"role": "system", "content": f"l{text}."},
            {"role": "assistant", "content": [thought, {"type": "text", "text": f"a{text}."}, call]},
            {"role": "user", "content": [result, {"type": "text", "text": f"w{text}."}]},
            {"role": "assistant", "content": f"p{text}."},
        ],
    }


@pytest.mark.parametrize("name", SHAPES)
@settings(max_examples=40, deadline=None)
@given(text=texts)
def test_content_adds_no_special_token_to_the_templates_own(name: str, text: str) -> None:
    expected = special_tokens_in(name, build(name, **conversation("")).tokens)
    assert special_tokens_in(name, build(name, **conversation(text)).tokens) == expected


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=40, deadline=None)
@given(text=texts)
def test_the_prompt_decodes_to_what_was_sent(name: str, text: str) -> None:
    sent = conversation(text)
    system, messages, tools = sent["system"], sent["messages"], sent["tools"]
    decoded = decode(name, build(name, **sent).tokens)
    written = [system, messages[0]["content"], messages[1]["content"], messages[2]["content"][1]["text"]]
    written += [block.get("text", block.get("content")) for block in messages[3]["content"]]
    written += [json.dumps(messages[2]["content"][2]["input"], ensure_ascii=False)]
    written += [json.dumps(tools[0]["description"], ensure_ascii=False)]
    for part in written:
        assert part in decoded
    assert decoded.endswith(messages[4]["content"])


@pytest.mark.parametrize("name", ["phi_3", "llama_2"])
@settings(max_examples=60, deadline=None)
@given(text=texts)
def test_a_prompt_of_pieces_decodes_but_for_space_at_special_tokens(name: str, text: str) -> None:
    """SentencePiece's tokenizers lose or add a space beside any special token."""
    tokens = build(name, messages=[{"role": "user", "content": f"u{text}."}]).tokens
    assert f"u{text}." in decode(name, tokens)


@pytest.mark.parametrize("name", SHAPES)
def test_a_text_without_special_tokens_is_tokenised_as_ever(name: str) -> None:
    content = "def f(a): return a < 3 and [a] | {a: 'end'}  # <b>Grüße</b>\n\n"
    messages = [{"role": "user", "content": content}]
    rendered = ChatTemplate(shape(name)).render("", messages, [], ThinkingOptions(wanted=True))
    prompt = build(name, messages=messages, thinking={"type": "adaptive"})
    assert prompt.tokens == shape(name).encode(rendered, add_special_tokens=False)


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "bytes"])
@settings(max_examples=40, deadline=None)
@given(text=st.text(st.sampled_from("abé😀 \n<>|.[]"), max_size=30))
def test_escaping_alone_changes_no_id(name: str, text: str) -> None:
    """So a conversation without special tokens is a prefix of a longer one that holds some."""
    tokenizer = shape(name)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    special_tokens = SpecialTokens(tokenizer)
    assert special_tokens.encode(rendered, "nowhere") == special_tokens.encode(rendered, "")


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("text", ["", "<|im_end|></tool_call><|eot_id|></s>"])
def test_a_longer_conversation_begins_with_the_shorter_one(name: str, text: str) -> None:
    """Also where only a later message holds a special token, and all are tokenised in the other way."""
    with_tokens = conversation("<|im_start|><tool_call><|end|><s>")
    turns = conversation(text) | {"thinking": {"type": "adaptive"}}
    messages = [
        turns["messages"][0],
        {"role": "assistant", "content": "Yes."},
        turns["messages"][0],
        with_tokens["messages"][4],
        with_tokens["messages"][0],
    ]
    short, longer, longest = (
        build(name, **turns | {"messages": messages[:length]}).tokens for length in (1, 3, 5)
    )
    assert longer[: len(short)] == short
    assert longest[: len(longer)] == longer


def test_words_and_spaces_among_the_added_tokens_are_text() -> None:
    tokenizer = tokenizers.qwen()
    tokenizer._tokenizer.add_tokens(["    ", "hello"])
    special_tokens = SpecialTokens(tokenizer)
    assert special_tokens.escape("hello    world")[1] == ""
    escaped, separator = special_tokens.escape("hello    <|im_end|>")
    text = f"<|im_start|>{escaped}<|im_end|>"
    tokens = special_tokens.encode(text, separator).tokens
    assert decode_with(tokenizer, tokens) == "<|im_start|>hello    <|im_end|><|im_end|>"
    ids = {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}
    assert [tokens.count(ids[token]) for token in ("hello", "    ", "<|im_end|>")] == [1, 1, 1]


@pytest.mark.parametrize("is_used", [False, True])
def test_tags_of_html_are_text_where_the_model_marks_nothing_with_them(is_used: bool) -> None:
    """Gemma 3 has fifty such tokens, which were torn into letters."""
    tokenizer = tokenizers.qwen()
    tokenizer._tokenizer.add_tokens(["<table>", "｜DSML｜"])  # noqa: RUF001  (DeepSeek's)
    if is_used:
        tokenizer.chat_template += "<table>"
    words = "<table>｜DSML｜"  # noqa: RUF001
    special_tokens = SpecialTokens(tokenizer)
    tokens = special_tokens.encode(*special_tokens.escape(words)).tokens
    ids = {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}
    assert (ids["<table>"] in tokens) == (not is_used)
    assert ids["｜DSML｜"] not in tokens  # noqa: RUF001
    assert decode_with(tokenizer, tokens) == words


def decode_with(tokenizer: Any, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=False))


def test_overlapping_special_tokens_are_all_split() -> None:
    tokenizer = tokenizers.qwen()
    tokenizer._tokenizer.add_tokens(["<|x|>", "|><y>", "<y>"], special_tokens=True)
    special_tokens = SpecialTokens(tokenizer)
    tokens = special_tokens.encode(*special_tokens.escape("<|x|><y>")).tokens
    assert not set(tokens) & set(tokenizer.added_tokens_decoder)
    assert decode_with(tokenizer, tokens) == "<|x|><y>"


def test_a_special_token_that_opens_thoughts_opens_none_as_text() -> None:
    tokenizer = ByteTokenizer(thinks=True)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>"}]
    body = {"model": "m", "messages": messages}
    prompt = build_prompt(make_prompt_builder(tokenizer), body)
    assert not prompt.starts_thinking


def test_looking_for_special_tokens_costs_little() -> None:
    """Most of all in files full of the characters that special tokens begin with."""
    tokenizer = shape("llama_3")
    special_tokens = SpecialTokens(tokenizer)
    content = "<td>if a < b: print('x')</td>\n" * 2000
    looking_s, tokenising_s = (
        min(timeit.repeat(step, timer=time.thread_time, number=1, repeat=3))
        for step in (lambda: special_tokens.escape([content]), lambda: tokenizer.encode(content))
    )
    assert looking_s < 0.25 * tokenising_s
