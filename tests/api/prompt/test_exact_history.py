"""The prompt of a conversation's next turn begins with the last one's tokens and the tokens of its reply."""

import random
import re
from functools import cache
from typing import Any

import pytest

from pensieve.api.config import ServerConfig
from pensieve.api.formats.output_events import TextDelta
from pensieve.api.prompt.prompt import Prompt, PromptBuilder
from pensieve.api.prompt.template import ChatTemplate
from pensieve.scheduler.sequence import FinishReason

from ...budget import trials
from ...fakes import FakeModel, Script
from .. import tokenizers
from ..builders import make_format
from ..conftest import StartServer
from ..exchange import BASH, HELLO
from .rewriting_client import EDITS, REWRITES, Conversation, draw_reply

QWEN_3 = """\
{{- '<|im_start|>system\n' + (tools | tojson if tools else '') + '<|im_end|>\n' }}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.reasoning_content %}
{{- '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}
{%- endif %}
{{- message.content | trim }}
{%- for call in message.tool_calls or [] %}
{{- '\n<tool_call>\n' + call.function | tojson + '\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and not enable_thinking %}
{{- '<think>\n\n</think>\n\n' }}
{%- endif %}"""
"""As Qwen 3's: where thinking is off, an answer begins with empty thoughts, which are not shown again."""


DROPS_THOUGHTS = QWEN_3.replace(
    "if message.reasoning_content",
    "if message.reasoning_content and 'user' not in messages[loop.index:] | map(attribute='role')",
)
"""As Qwen 3's in this: only the loop under way has thoughts."""


def qwen_3(template: str = QWEN_3) -> Any:
    tokenizer = tokenizers.qwen()
    tokenizer.chat_template = template
    return tokenizer


SHAPES = {"qwen": tokenizers.qwen, "qwen_3": qwen_3, "llama_3": tokenizers.llama_3, "phi_3": tokenizers.phi_3}
SHAPES["demo"] = tokenizers.demo

MOST_CALLS = {"llama_3": 1}
"""Calls in a reply, where the template takes fewer: others are shown apart, each with its result."""


@cache
def parts(name: str) -> tuple[Any, FakeModel, ChatTemplate]:
    tokenizer = SHAPES[name]() if name in SHAPES else qwen_3(DROPS_THOUGHTS)
    (end,) = tokenizer.eos_token_ids
    model = FakeModel(vocab_size=10**6, num_state_slots=9, eos_token_ids=frozenset({end}))
    return tokenizer, model, ChatTemplate(tokenizer)


def make_builder(name: str, history_mb: int = 1) -> PromptBuilder:
    tokenizer, model, template = parts(name)
    config = ServerConfig(history_mb=history_mb)
    return PromptBuilder(model, tokenizer, template, make_format(tokenizer), config)


def talk(name: str, seed: int = 0, **options: Any) -> Conversation:
    return Conversation(make_builder(name), random.Random(seed), options=options)


def decoded(name: str, tokens: list[int]) -> str:
    return str(parts(name)[0].decode(tokens))


@pytest.mark.parametrize("name", SHAPES)
def test_rewritten_calls_stand_in_later_prompts_as_they_were_sampled(name: str) -> None:
    conversation = talk(name)
    prompt = conversation.ask("Mend it.")
    for rewrite in REWRITES:
        before = prompt.tokens + conversation.reply(prompt, calls=(rewrite,))
        prompt = conversation.prompt()
        assert prompt.tokens[: len(before)] == before, rewrite


@pytest.mark.parametrize("name", SHAPES)
def test_each_prompt_of_a_random_conversation_extends_the_one_before(name: str) -> None:
    plain = make_builder(name, history_mb=0)
    for seed in range(trials(2, 12)):
        conversation = talk(name, seed)
        prompt = conversation.ask("Mend it.")
        for turn in range(12):
            text, calls = draw_reply(conversation.rng, MOST_CALLS.get(name, 2))
            reply = conversation.reply(prompt, text, calls=calls)
            before = prompt.tokens + reply
            if not calls or conversation.rng.random() < 0.2:
                conversation.messages.append({"role": "user", "content": f"And then, {turn}?"})
            prompt = conversation.prompt()
            assert prompt.tokens[: len(before)] == before, (seed, turn)
            new = decoded(name, prompt.tokens[len(before) :])
            assert decoded(name, conversation.prompt(plain).tokens).endswith(new.lstrip()), (seed, turn)


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_call_is_rendered_anew_and_later_replies_stay(edit: str) -> None:
    conversation = talk("qwen")
    first = conversation.ask("Mend it.")
    edited = conversation.reply(first, calls=(edit,))
    second = conversation.prompt()
    plain = conversation.prompt(make_builder("qwen", history_mb=0))
    assert second.tokens == plain.tokens
    later = conversation.reply(second, calls=("a default is added",))
    third = conversation.prompt()
    assert third.tokens[: len(second.tokens) + len(later)] == second.tokens + later
    assert edited != later


def test_an_edited_text_is_rendered_anew() -> None:
    conversation = talk("qwen")
    conversation.reply(conversation.ask("Mend it."), "It is mended.")
    conversation.messages[-1]["content"][0]["text"] = "It is not mended."
    conversation.ask("Really?")
    assert conversation.prompt().tokens == conversation.prompt(make_builder("qwen", history_mb=0)).tokens


def test_a_reply_without_words_or_calls_is_rendered_anew() -> None:
    """All later prompts of its conversation failed: no word showed where it stood."""
    conversation = talk("qwen")
    conversation.reply(conversation.ask("Mend it."), text="", thoughts=" ")
    prompt = conversation.ask("And now?")
    assert prompt.tokens == conversation.prompt(make_builder("qwen", history_mb=0)).tokens


def test_thoughts_that_the_template_shows_are_part_of_the_reply_and_others_are_not() -> None:
    for name, is_exact in {"qwen_3": True, "llama_3": False}.items():
        conversation = talk(name)
        first = conversation.ask("Mend it.")
        reply = conversation.reply(first, thoughts="Let me think.", calls=("keys are sorted",))
        before = first.tokens + reply
        assert (conversation.prompt().tokens[: len(before)] == before) == is_exact


def test_replies_keep_the_thoughts_that_the_client_wants_kept() -> None:
    """With the user's next words, the template dropped the thoughts of the whole last loop."""
    keep = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    for wish, is_exact in ((keep, True), (None, False)):
        conversation = talk("drops", context_management=wish)
        prompt = conversation.ask("Mend it.")
        for calls in (("keys are sorted",), ("a default is added",), ()):
            text = "" if calls else "It is mended."
            before = prompt.tokens + conversation.reply(prompt, text, thoughts="Let me think.", calls=calls)
            prompt = conversation.prompt() if calls else conversation.ask("And then?")
            assert (prompt.tokens[: len(before)] == before) == (is_exact or bool(calls))


def test_a_reply_whose_thoughts_the_client_has_dropped_is_rendered_anew() -> None:
    conversation = talk("qwen_3")
    conversation.reply(conversation.ask("Mend it."), thoughts="Let me think.", calls=("keys are sorted",))
    del conversation.messages[-2]["content"][0]
    assert conversation.prompt().tokens == conversation.prompt(make_builder("qwen_3", history_mb=0)).tokens


def test_replies_to_another_key_are_rendered_anew() -> None:
    conversation = talk("qwen")
    conversation.reply(conversation.ask("Mend it."), calls=("keys are sorted",))
    plain = conversation.prompt(make_builder("qwen", history_mb=0)).tokens
    assert conversation.prompt(owner=b"you").tokens == plain
    assert conversation.prompt().tokens != plain


def test_the_same_words_twice_are_each_as_they_were_sampled() -> None:
    conversation = talk("qwen")
    prompt = conversation.ask("Go on.")
    for _ in range(3):
        before = prompt.tokens + conversation.reply(prompt, "Done.")
        prompt = conversation.ask("Go on.")
        assert prompt.tokens[: len(before)] == before


def test_branch_points_count_the_tokens_of_replies() -> None:
    conversation = talk("qwen")
    conversation.reply(conversation.ask("Mend it."), calls=("nothing",))
    prompt: Prompt = conversation.prompt()
    plain = conversation.prompt(make_builder("qwen", history_mb=0))
    longer = len(prompt.tokens) - len(plain.tokens)
    assert longer
    assert len(prompt.branch_points) == len(plain.branch_points) >= 3
    moved = [a - b for a, b in zip(prompt.branch_points, plain.branch_points, strict=True)]
    assert set(moved) == {0, longer}
    assert moved[-1] == longer


ANSWER = 'I look.<tool_call>{"arguments": {"command":"cd /a && ls"},"name": "Bash"}</tool_call>'
MARKS = re.compile("(<tool_call>|</tool_call>|.)")
RESULT = {"type": "tool_result", "content": "a.py"}


def first_and_second_prompt(
    start_server: StartServer, first: dict[str, Any], finish: FinishReason
) -> tuple[list[int], list[int], list[int]]:
    """Ask, and send the answer back as Claude Code does. Returns the first prompt, the answer, the second."""
    tokenizer, model, _ = parts("qwen")
    server = start_server(tokenizer=tokenizer, model=model)
    letters = [part for part in MARKS.split(ANSWER) if part]  # a tokenizer would join most of them
    tokens = [token for part in letters for token in tokenizer.encode(part, add_special_tokens=False)]
    server.scheduler.play(Script([tokens[i : i + 5] for i in range(0, len(tokens), 5)], finish=finish))
    sdk = server.sdk(**first.pop("client", {}))
    asked: Any = {"model": "default", "max_tokens": 500, "tools": [BASH], "system": "CWD: /a"}
    message = sdk.messages.create(**asked, messages=[*HELLO], **first)
    blocks = [block.to_dict() for block in message.content]
    results = []
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = {"command": "ls"}
            results.append(RESULT | {"tool_use_id": block["id"]})
    history: Any = [
        *HELLO,
        {"role": "assistant", "content": blocks},
        {"role": "user", "content": results or "?"},
    ]
    server.sdk().messages.create(**asked, messages=history)
    before, after = (request.prompt for request in server.scheduler.requests)
    return before, tokens, after


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_the_server_keeps_what_it_has_sampled(start_server: StartServer, finish: FinishReason) -> None:
    before, tokens, after = first_and_second_prompt(start_server, {}, finish)
    assert after[: len(before) + len(tokens)] == before + tokens


@pytest.mark.parametrize(
    "first",
    [
        {"client": {"api_key": "another"}},
        {"stop_sequences": ["I look"]},
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    ],
    ids=["another key", "a stop sequence", "one call only"],
)
def test_answers_that_the_server_has_ended_or_that_were_anothers_are_rendered_anew(
    start_server: StartServer, first: dict[str, Any]
) -> None:
    before, tokens, after = first_and_second_prompt(start_server, dict(first), "stop")
    assert after[: len(before) + len(tokens)] != before + tokens


def test_a_special_token_in_a_replys_words_comes_back_as_text() -> None:
    """Its letters, of a file that the model has read, may come back as they were sampled."""
    tokenizer = tokenizers.qwen()
    for reply, is_kept in (
        (tokenizer.encode("See <|im_start|>system."), False),
        ([*tokenizer.encode("See <|im_"), *tokenizer.encode("start|>system.")], True),
    ):
        conversation = Conversation(make_builder("qwen"), random.Random(1))
        prompt = conversation.ask("Go on.")
        assert prompt.keeper is not None
        prompt.keeper.keep(reply, [TextDelta("See <|im_start|>system.")])
        conversation.messages.append({"role": "assistant", "content": "See <|im_start|>system."})
        following = conversation.ask("And?").tokens
        assert (following[: len(prompt.tokens) + len(reply)] == prompt.tokens + reply) == is_kept
        start = tokenizer.encode("<|im_start|>")[0]
        assert following.count(start) == prompt.tokens.count(start) + 2
