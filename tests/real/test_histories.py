"""No history is refused: real templates times conversations as clients send them times odd schemas of tools.

PENSIEVE_REAL_CASES says how many cases each template is given; 100000 makes it all of them.
"""

import random
import re
from collections.abc import Iterator
from typing import Any

import pytest

from pensieve.api.prompt.prompt import PromptBuilder

from ..api.builders import build_prompt, make_prompt_builder
from ..budget import trials
from .conversations import conversations, seen_words
from .odd_tools import BASH, ODD_SCHEMAS, READ, odd_tool
from .templates_on_disk import BOS, read_template, small_tokenizer, template_names

NUM_CASES = trials(1, 4, "PENSIEVE_REAL_CASES")
CONVERSATIONS = list(conversations())
SYSTEM = "You are seen system."
PLAIN = "plain"  # the schema with which prefixes are judged

# What templates write or leave out around the thoughts of earlier answers, and space beside it.
THOUGHTS = re.compile(r"</?think>|Let me think\.|<\|channel>thought|<channel\|>|\s+")
THOUGHT_MESSAGES = re.compile(  # gpt-oss's and Solar Open's
    r"<\|start\|>assistant<\|channel\|>analysis<\|message\|>Let me think\.<\|end\|>"
    r"|<\|begin\|>assistant<\|think\|>Let me think\.<\|end\|>"
)

pytestmark = pytest.mark.slow


def test_there_are_enough_conversations_and_schemas() -> None:
    assert len(CONVERSATIONS) >= 40
    assert len(ODD_SCHEMAS) >= 25


@pytest.mark.parametrize("name", template_names())
def test_whatever_has_happened_is_shown_in_order_and_refused_never(name: str) -> None:
    tokenizer = small_tokenizer(read_template(name))
    builder = make_prompt_builder(tokenizer, len(tokenizer.get_vocab()))
    for kind, messages, schema in drawn_cases(name):
        case = f"{name}, {kind}, {schema}"
        text = prompt_text(tokenizer, builder, messages, schema)
        assert text.count(BOS) <= 1, case
        assert "seen system" in text, case
        assert "Odd" in text, case
        judge_order(text, messages, case)
        for end in range(1, len(messages) if schema == PLAIN else 0):
            if messages[end - 1]["role"] == "user" and messages[end]["role"] == "assistant":
                shorter = prompt_text(tokenizer, builder, messages[:end], schema)
                judge_prefix(shorter, text, messages[:end], case)


def drawn_cases(name: str) -> Iterator[tuple[str, list[dict[str, Any]], str]]:
    """Yield some or all conversations with some or all schemas; of some, half with the plain one."""
    plain = [(*conversation, PLAIN) for conversation in CONVERSATIONS]
    odd = [
        (*conversation, schema) for conversation in CONVERSATIONS for schema in ODD_SCHEMAS if schema != PLAIN
    ]
    rng, half = random.Random(name), (NUM_CASES + 1) // 2
    yield from rng.sample(plain, min(half, len(plain)))
    yield from rng.sample(odd, min(half, len(odd)))


def prompt_text(tokenizer: Any, builder: PromptBuilder, messages: list[dict[str, Any]], schema: str) -> str:
    tools = [BASH, READ, odd_tool(schema)]
    body = {"model": "m", "system": SYSTEM, "messages": messages, "tools": tools}
    return str(tokenizer.decode(build_prompt(builder, body).tokens))


def judge_order(text: str, messages: list[dict[str, Any]], case: str) -> None:
    """Every word is shown, and the words of texts stand in the order in which they were sent."""
    missing = [word for word in seen_words(messages) if word not in text]
    assert not missing, f"{case}: {missing}\n{text}"
    blocks = [block for message in messages for block in message["content"]]
    words = seen_words([block for block in blocks if block["type"] not in ("tool_use", "tool_result")])
    places = [text.find(word) for word in words]
    assert places == sorted(places), f"{case}\n{text}"
    for block in blocks:
        if block["type"] == "tool_use":
            results = [other for other in blocks if other.get("tool_use_id") == block.get("id")]
            places = [text.find(word) for word in seen_words([block, *results])]
            assert places == sorted(places), f"{case}\n{text}"


def judge_prefix(shorter: str, text: str, messages: list[dict[str, Any]], case: str) -> None:
    """A prompt goes on where the last one ended, up to its last word, but for thoughts."""
    words = seen_words(messages)
    end = max((shorter.find(word) + len(word) for word in words), default=0)
    head = without_thoughts(shorter[:end])
    assert without_thoughts(text).startswith(head), f"{case}\n{shorter}\n----\n{text}"


def without_thoughts(text: str) -> str:
    return THOUGHTS.sub("", THOUGHT_MESSAGES.sub("", text))
