"""Text on which a model's KV is judged, with marks at the tokens whose prediction counts."""

import random
from collections import abc
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...scripts.demo_model.corpus import standard_library, text_lines
from ...scripts.demo_model.evaluate import message
from ...scripts.demo_model.tasks import Tasks
from ...scripts.demo_model.words import Words

NEEDLE, CUE = 40, 16
"""Tokens of a needle, and those of them that its repetition gives away."""


@dataclass(frozen=True)
class ScoredText:
    """Tokens, and whether each of them counts."""

    ids: list[int]
    is_scored: list[bool]

    def targets(self) -> Any:
        """Return, for each position, the token that should follow; -1 where that does not count."""
        following = [
            token if scored else -1 for token, scored in zip(self.ids[1:], self.is_scored[1:], strict=True)
        ]
        return np.array([*following, -1])

    def parted(self, count: int) -> tuple["ScoredText", "ScoredText"]:
        """Return the first tokens, and the others."""
        first = ScoredText(self.ids[:count], self.is_scored[:count])
        return first, ScoredText(self.ids[count:], self.is_scored[count:])


def all_scored(ids: list[int]) -> ScoredText:
    """Return a text all of whose tokens count."""
    return ScoredText(ids, [True] * len(ids))


def conversation(tokenizer: Any, num_tokens: int) -> ScoredText:
    """Return sessions as the demo model is trained for, in the model's chat template.

    The tokens of the assistant count. The requests are of those that are kept from training.
    """
    rng = random.Random(7)
    tasks = Tasks(rng, Words(rng, text_lines(standard_library(50))))
    messages: list[Any] = []
    is_scored: list[bool] = []
    while len(is_scored) < num_tokens:
        turn = tasks.turn(held_out=True)
        for each in [{"role": "user", "content": turn.request}, *map(message, turn.steps)]:
            if each["role"] == "assistant":
                head = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
                is_scored += [False] * (len(head) - len(is_scored))
            messages.append(each)
            ids = tokenizer.apply_chat_template(messages)
            is_scored += [each["role"] == "assistant"] * (len(ids) - len(is_scored))
    return ScoredText(ids[:num_tokens], is_scored[:num_tokens])


def needles(tokenizer: Any, num_tokens: int, count: int) -> ScoredText:
    """Return source text with lines of random words throughout, repeated in another order at its end.

    Of each repetition the tokens after the first CUE count: only the needle says how it goes on.
    """
    rng = random.Random(11)
    lines = text_lines(standard_library(50))
    words, hay = Words(rng, lines), tokenizer.encode("\n".join(lines[:60_000]))
    lines_of_words = ["\n" + words.phrase(24, 30) for _ in range(count)]
    planted = [tokenizer.encode(line)[:NEEDLE] for line in lines_of_words]
    step = num_tokens // count - 2 * NEEDLE
    ids: list[int] = []
    for index, needle in enumerate(planted):
        ids += [*hay[index * step : (index + 1) * step], *needle]
    is_scored = [False] * len(ids)
    for needle in _shuffled(rng, planted):
        ids += needle
        is_scored += [False] * CUE + [True] * (len(needle) - CUE)
    return ScoredText(ids, is_scored)


def _shuffled(rng: random.Random, items: abc.Sequence[list[int]]) -> list[list[int]]:
    return rng.sample(items, len(items))
