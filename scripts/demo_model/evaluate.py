"""Judges the shipped model, through mlx-lm and greedily, on instances that training never saw.

    python -m pensieve.scripts.demo_model.evaluate --lengths 300 4000 --count 16

An instance is right only if every step of its turn is, character for character: each call and each answer.
Each row of the table is a prompt length: a random system prompt and tool schemas of so many tokens go before.
"""

import argparse
import json
import random
from collections import abc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache

from pensieve.scripts.demo_model import MODEL_FOLDER
from pensieve.scripts.demo_model.corpus import standard_library, text_lines
from pensieve.scripts.demo_model.distractors import Distractors
from pensieve.scripts.demo_model.rows import call_text
from pensieve.scripts.demo_model.tasks import Call, Result, Say, Step, Tasks, Turn
from pensieve.scripts.demo_model.words import Words

KINDS = ("run", "read", "edit", "say", "count", "talk")
INSTANCES_A_PROMPT = 5
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """The system prompt and the tools before a request."""

    system: str
    tools: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Fault:
    """An instance's first wrong step."""

    request: str
    wanted: str
    got: str


def message(step: Step) -> Message:
    """Return a step as a chat message."""
    if isinstance(step, Result):
        return {"role": "tool", "content": step.text}
    if isinstance(step, Say):
        return {"role": "assistant", "content": step.text}
    function = {"name": step.name, "arguments": step.arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}


def expected(step: Say | Call) -> str:
    """Return the right text for a step."""
    return step.text if isinstance(step, Say) else call_text(step)


class Judge:
    """Runs turns through the model and compares every step; keeps the KV of the last prompt for the next."""

    def __init__(self, folder: Path) -> None:
        loaded: Any = mlx_lm.load(str(folder))
        self.model, self.tokenizer = loaded[:2]
        self.model.set_dtype(mx.float32)
        self.cache = make_prompt_cache(self.model)
        self.cached: list[int] = []

    def render(self, setting: Setting, messages: abc.Sequence[Message]) -> list[int]:
        """Return the prompt's tokens, ready for the assistant to go on."""
        head = [{"role": "system", "content": setting.system}] if setting.system else []
        ids: list[int] = self.tokenizer.apply_chat_template(
            [*head, *messages], tools=setting.tools or None, add_generation_prompt=True
        )
        return ids

    def write(self, ids: list[int], most: int) -> str:
        """Continue the tokens greedily until the end of the message, or for `most` tokens."""
        shared = 0
        while shared < min(len(ids) - 1, len(self.cached)) and ids[shared] == self.cached[shared]:
            shared += 1
        trim_prompt_cache(self.cache, self.cache[0].offset - shared)
        text = ""
        parts = mlx_lm.stream_generate(
            self.model, self.tokenizer, ids[shared:], max_tokens=most, prompt_cache=self.cache
        )
        for part in parts:
            text += part.text
        self.cached = ids
        return text

    def first_fault(self, setting: Setting, turn: Turn) -> Fault | None:
        """Return the first wrong step of a turn, or None."""
        messages: list[Message] = [{"role": "user", "content": turn.request}]
        for step in turn.steps:
            if not isinstance(step, Result):
                wanted = expected(step)
                most = len(self.tokenizer.encode(wanted)) + 8
                got = self.write(self.render(setting, messages), most)
                if got != wanted:
                    return Fault(turn.request, wanted, got)
            messages.append(message(step))
        return None


def setting_of(rng: random.Random, lines: abc.Sequence[str], judge: Judge, num_tokens: int) -> Setting:
    """Draw a system prompt with tools, of at least `num_tokens` tokens."""
    distractors = Distractors(rng, lines)
    functions = distractors.tools(size=max(1, num_tokens // 300), extra=min(12, num_tokens // 600))
    tools = [{"type": "function", "function": function} for function in functions]
    parts = [distractors.environment()]
    while len(judge.render(Setting("\n\n".join(parts), tools), [])) < num_tokens:
        parts.insert(0, distractors.system(min(num_tokens, 2000)))
    return Setting("\n\n".join(parts), tools)


def faults(
    judge: Judge, lines: abc.Sequence[str], kind: str, length: int, options: argparse.Namespace
) -> list[Fault]:
    """Return the faults of a task's instances after prompts of `length` tokens."""
    rng = random.Random(f"{options.seed} {kind} {length}")
    found = []
    for index in range(options.count):
        if index % INSTANCES_A_PROMPT == 0:
            setting = setting_of(rng, lines, judge, length)
        turn = Tasks(rng, Words(rng, lines)).turn(kind, held_out=True)
        fault = judge.first_fault(setting, turn)
        if fault:
            found.append(fault)
    return found


def main() -> None:
    """Print how many instances are right for each task and prompt length."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--lengths", type=int, nargs="+", default=[300, 4000, 16000])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--show", action="store_true", help="print each instance that failed")
    options = parser.parse_args()
    judge = Judge(options.model)
    lines = text_lines(standard_library(200))
    print("| prompt tokens | " + " | ".join(options.kinds) + " |\n|" + " --- |" * (len(options.kinds) + 1))
    for length in options.lengths:
        rows = [faults(judge, lines, kind, length, options) for kind in options.kinds]
        cells = [f"{options.count - len(found)}/{options.count}" for found in rows]
        print(f"| {length} | " + " | ".join(cells) + " |", flush=True)
        for fault in [fault for found in rows for fault in found] if options.show else []:
            print(json.dumps([fault.request, fault.wanted, fault.got], ensure_ascii=False))


if __name__ == "__main__":
    main()
