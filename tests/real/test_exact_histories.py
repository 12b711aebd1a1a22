"""With real templates, each prompt of a tool loop begins with the last one's tokens and its reply's."""

import random
import re
from typing import Any

import pytest

from pensieve.api.answer_options import ThinkingOptions
from pensieve.api.prompt.prompt import PromptBuilder
from pensieve.api.prompt.template import ChatTemplate
from pensieve.api.prompt.template_messages import model_turn, user_turn

from ..api.builders import make_format
from ..api.prompt.rewriting_client import REWRITES, Conversation
from ..budget import trials
from ..fakes import FakeModel
from . import templates_on_disk
from .templates_on_disk import EOS, read_template, small_tokenizer, template_names

NUM_TURNS = trials(4, len(REWRITES), "PENSIEVE_REAL_CASES")

ENDS_OF_CALLS = (
    *("<|call|>", "<|calls|>", "<|tool_response>", "<|observation|>", "<|eom_id|>", "<|eom|>"),
    "<|tools_suffix|>",
)
"""Tokens that end an answer with calls, and are not those that end a text."""

OTHER_ENDS = (
    *("[e~[", "</assistant>", "<sep>", "<turn|>", "<end_of_sentence>"),
    "<SPECIAL_12>",
    EOS,
    "<|END_OF_TURN_TOKEN|>",
)

EXCEPTIONS = {
    "what it writes behind a result before a new answer, it leaves out in the middle": {
        "Bielik-11B-v3.0-Instruct",
        "CohereForAI-c4ai-command-r-plus-tool_use",
    },
    "no token of the small tokenizer ends its answers": {"llama-cpp-rwkv-world"},
}
"""Templates of whose replies some are rendered anew, and why."""

CALLS_WITH_IDS = {
    **dict.fromkeys(
        ("Apriel-1.6-15b-Thinker-fixed", "unsloth-Apriel-1.5"),
        '<tool_calls>[{"name": "Bash", "arguments": {}, "id": "@"}]</tool_calls>',
    ),
    "Mistral-Small-3.2-24B-Instruct-2506": "[TOOL_CALLS]Bash[CALL_ID]@[ARGS]{}",
    "mistralai-Mistral-Nemo-Instruct-2407": '[TOOL_CALLS][{"name": "Bash", "arguments": {}, "id": "@"}]',
    **dict.fromkeys(
        ("Kimi-K2-Instruct", "Kimi-K2-Thinking", "moonshotai-Kimi-K2"),
        "<|tool_call_begin|>functions.Bash:@<|tool_call_argument_begin|>{}<|tool_call_end|>",
    ),
    "upstage-Solar-Open-100B": "<|tool_call:begin|>@<|tool_call:name|>Bash<|tool_call:args|>{}",
}
"""What the models of templates write that show calls' ids, and results by them."""

pytestmark = pytest.mark.slow


DROPS_THOUGHTS = {
    "Apriel-1.6-15b-Thinker-fixed",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use",  # at the user's next question
}
"""Templates that show thoughts less long than a client may ask for."""

KEEPS_THOUGHTS = {
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
}


@pytest.fixture
def built(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[PromptBuilder, bool]:
    """A builder of the template's prompts, and whether the template shows thoughts."""
    marks = "|".join(map(re.escape, (*ENDS_OF_CALLS, *OTHER_ENDS)))
    pattern = re.compile(f"{templates_on_disk.MARKS.pattern}|{marks}")
    monkeypatch.setattr(templates_on_disk, "MARKS", pattern)
    tokenizer = small_tokenizer(read_template(name))
    template = ChatTemplate(tokenizer)
    vocabulary = tokenizer.get_vocab()
    ends = [*ENDS_OF_CALLS, *OTHER_ENDS, end_of_text(template, pattern)]
    model = FakeModel(
        vocab_size=len(vocabulary),
        eos_token_ids=frozenset(vocabulary[end] for end in ends if end in vocabulary),
    )
    builder = PromptBuilder(model, tokenizer, template, make_format(tokenizer))
    return builder, template.abilities.thoughts


@pytest.mark.parametrize("name", template_names())
def test_a_tool_loop_extends_its_prompt(name: str, built: tuple[PromptBuilder, bool]) -> None:
    builder, thinks = built
    conversation = Conversation(builder, random.Random(name))
    prompt = conversation.ask("Mend it.")
    are_exact = []
    for turn in range(NUM_TURNS):
        call = list(REWRITES)[turn % len(REWRITES)]
        text, tokens = "I look." if turn % 2 else "", tokens_with_id(name, f"callid{turn:03}")
        before = prompt.tokens + conversation.reply(prompt, text, calls=(call,), tokens=tokens)
        prompt = conversation.prompt()
        are_exact.append(prompt.tokens[: len(before)] == before)
    assert all(are_exact) != is_exception(name), are_exact
    if thinks:
        conversation = Conversation(builder, random.Random(name), options=KEEPS_THOUGHTS)
        prompt = conversation.ask("Mend it.")
        for text, calls in (("", ("keys are sorted",)), ("I look.", ("a default is added",)), ("Done.", ())):
            tokens = tokens_with_id(name, f"callid{len(are_exact):03}") if calls else None
            before = prompt.tokens + conversation.reply(prompt, text, "Let me think.", calls, tokens)
            prompt = conversation.prompt() if calls else conversation.ask("And this?")
            are_exact.append(prompt.tokens[: len(before)] == before)
        assert all(are_exact) != (is_exception(name) or name in DROPS_THOUGHTS), are_exact


def tokens_with_id(name: str, call_id: str) -> list[int] | None:
    """Return a call as the model writes it with an id; None where it writes none."""
    call = CALLS_WITH_IDS.get(name)
    if call is None:
        return None
    tokenizer = small_tokenizer(read_template(name))
    return list(tokenizer.encode(call.replace("@", call_id), add_special_tokens=False))


def is_exception(name: str) -> bool:
    return any(name in names for names in EXCEPTIONS.values())


def end_of_text(template: ChatTemplate, marks: re.Pattern[str]) -> str:
    """Return the token that the template writes behind a text of the model."""
    messages: list[Any] = [user_turn("Mend it."), model_turn("probe-answer"), user_turn("And this?")]
    text = template.render("", messages, [], ThinkingOptions())
    found = marks.search(text, text.find("probe-answer"))
    return found[0] if found else EOS
