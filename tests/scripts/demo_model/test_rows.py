"""The training rows are what the shipped chat template renders."""

import json
import random
from collections import abc
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pensieve.scripts.demo_model import MODEL_FOLDER
from pensieve.scripts.demo_model.distractors import Distractors
from pensieve.scripts.demo_model.evaluate import message
from pensieve.scripts.demo_model.rows import Renderer, Row
from pensieve.scripts.demo_model.tasks import Tasks
from pensieve.scripts.demo_model.words import Words

LINES = ["def main() -> None:", "    return None", "", "A line of prose, which ends here.", "x = 1  # one"]


@pytest.fixture(scope="module")
def template() -> PreTrainedTokenizerBase:
    """The tokenizer as mlx-lm loads it."""
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(MODEL_FOLDER))
    return loaded


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    """The writer of the training rows."""
    return Renderer(Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json")))


def rendered(
    template: PreTrainedTokenizerBase, messages: abc.Sequence[dict[str, Any]], tools: Any = None
) -> list[int]:
    """The tokens of a conversation by the chat template."""
    text = template.apply_chat_template(list(messages), tools=tools, tokenize=False)
    ids: list[int] = template.encode(str(text), add_special_tokens=False)
    return ids


def test_a_row_of_turns_with_tools_is_what_the_template_renders(
    template: PreTrainedTokenizerBase, renderer: Renderer
) -> None:
    for seed in range(20):
        rng = random.Random(seed)
        distractors = Distractors(rng, LINES)
        tasks = Tasks(rng, Words(rng, LINES))
        tools, system = distractors.tools(size=4, extra=3), distractors.system(300)
        row = Row()
        encoded = [renderer.encode(json.dumps(tool, ensure_ascii=False)) for tool in tools]
        renderer.system(row, encoded, renderer.encode(system))
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
        for turn in [tasks.turn() for _ in range(4)]:
            renderer.message(row, "user", renderer.encode(turn.request))
            messages.append({"role": "user", "content": turn.request})
            for step in turn.steps:
                renderer.step(row, step)
                messages.append(message(step))
        wrapped = [{"type": "function", "function": tool} for tool in tools]
        assert row.ids == rendered(template, messages, wrapped)


def test_only_the_assistants_tokens_count(renderer: Renderer) -> None:
    rng = random.Random(1)
    turn = Tasks(rng, Words(rng, LINES)).turn("say")
    row = Row()
    renderer.message(row, "user", renderer.encode(turn.request))
    assert not any(row.weights)
    renderer.step(row, turn.steps[0])
    counted = [token for token, weight in zip(row.ids, row.weights, strict=True) if weight]
    assert counted[-1:] == renderer.end


def test_a_system_message_after_the_prompt_is_rendered_before_it(template: PreTrainedTokenizerBase) -> None:
    late = [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Today is Monday."}]
    early = [{"role": "system", "content": "Be brief."}, late[1], late[0]]
    head = {"role": "system", "content": "Be brief."}
    moved = rendered(template, [head, *late])
    assert template.decode(moved).index("Monday") < template.decode(moved).index("Hi")
    assert moved == rendered(template, early)


def test_an_empty_system_message_leaves_no_trace(template: PreTrainedTokenizerBase) -> None:
    user = {"role": "user", "content": "Hi"}
    assert rendered(template, [user, {"role": "system", "content": ""}]) == rendered(template, [user])


def test_a_longer_conversation_begins_with_the_shorter_one(template: PreTrainedTokenizerBase) -> None:
    rng = random.Random(3)
    tasks = Tasks(rng, Words(rng, LINES))
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}]
    before: list[int] = []
    for _ in range(6):
        turn = tasks.turn()
        messages += [{"role": "user", "content": turn.request}, *map(message, turn.steps)]
        ids = rendered(template, messages)
        assert ids[: len(before)] == before
        before = ids
