"""Judges the shipped model, through mlx-lm and greedily, on instances that training never saw.

An instance is right only if every step of its turn is right, character for character: each call and each answer.
The table's columns are prompt lengths; the prompt is a random system text with tool schemas of that many tokens.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
from mlx_lm.models.cache import make_prompt_cache

from pensieve.engine.demo.corpus import standard_library
from pensieve.engine.demo.distractors import Distractors
from pensieve.engine.demo.rows import call_text
from pensieve.engine.demo.tasks import Call, Result, Say, Step, Tasks, Turn
from pensieve.engine.demo.words import Words

MODEL_FOLDER = Path(__file__).parent / "model"
KINDS = ("run", "read", "edit", "say", "count", "talk")
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """What comes before a request: the system prompt and the tools."""

    system: str
    tools: list[dict[str, Any]]


def message(step: Step) -> Message:
    """A step as a chat message."""
    if isinstance(step, Result):
        return {"role": "tool", "content": step.text}
    if isinstance(step, Say):
        return {"role": "assistant", "content": step.text}
    function = {"name": step.name, "arguments": step.arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}


def expected(step: Say | Call) -> str:
    """What the model is to write for a step."""
    return step.text if isinstance(step, Say) else call_text(step)


class Judge:
    """Runs turns through the model and compares every step."""

    def __init__(self, folder: Path) -> None:
        loaded: Any = mlx_lm.load(str(folder))
        self.model, self.tokenizer = loaded[:2]
        self.model.set_dtype(mx.float32)

    def render(self, setting: Setting, messages: Sequence[Message]) -> list[int]:
        """The prompt's tokens, ready for the assistant to go on."""
        head = [{"role": "system", "content": setting.system}] if setting.system else []
        ids: list[int] = self.tokenizer.apply_chat_template(
            [*head, *messages], tools=setting.tools or None, add_generation_prompt=True
        )
        return ids

    def write(self, ids: list[int], most: int) -> str:
        """Continue the tokens greedily until the end of the message."""
        cache = make_prompt_cache(self.model)
        steps = mlx_lm.generate.generate_step if False else mlx_lm.stream_generate
        text = ""
        for part in steps(self.model, self.tokenizer, ids, max_tokens=most, prompt_cache=cache):
            text += part.text
        return text

    def first_fault(self, setting: Setting, turn: Turn, before: Sequence[Message] = ()) -> tuple[str, str] | None:
        """The first step that is not as it should be: what was expected, and what came."""
        messages: list[Message] = [*before, {"role": "user", "content": turn.request}]
        for step in turn.steps:
            if not isinstance(step, Result):
                wanted = expected(step)
                ids = self.render(setting, messages)
                got = self.write(ids, most=len(self.tokenizer.encode(wanted)) + 8)
                if got != wanted:
                    return wanted, got
            messages.append(message(step))
        return None


def setting_of(rng: random.Random, lines: Sequence[str], judge: Judge, num_tokens: int) -> Setting:
    """A random system prompt with tools, of about so many tokens."""
    distractors = Distractors(rng, lines)
    functions = distractors.tools(size=max(1, num_tokens // 300), extra=num_tokens // 600)
    tools = [{"type": "function", "function": function} for function in functions]
    system = distractors.environment()
    while len(judge.render(Setting(system, tools), [])) < num_tokens:
        system = distractors.system(num_tokens) + "\n\n" + system
    return Setting(system[: num_tokens * 3], tools)


def main() -> None:
    """Print the share of right instances for each task and prompt length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--lengths", type=int, nargs="+", default=[300, 2000, 8000])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--faults", action="store_true", help="print each instance that failed")
    options = parser.parse_args()
    judge = Judge(options.model)
    lines = [line for text in standard_library(200) for line in text.split("\n") if line.strip()]
    print("| prompt tokens | " + " | ".join(options.kinds) + " |\n|" + " --- |" * (len(options.kinds) + 1))
    for length in options.lengths:
        cells = [cell(judge, lines, kind, length, options) for kind in options.kinds]
        print(f"| {length} | " + " | ".join(cells) + " |", flush=True)


def cell(judge: Judge, lines: Sequence[str], kind: str, length: int, options: argparse.Namespace) -> str:
    """How many of a task's instances are right, behind prompts of a length."""
    rng = random.Random(f"{options.seed} {kind} {length}")
    right = 0
    start = time.monotonic()
    for _ in range(options.count):
        setting = setting_of(rng, lines, judge, length)
        turn = Tasks(rng, Words(rng, lines)).turn(kind, held_out=True)
        fault = judge.first_fault(setting, turn)
        right += fault is None
        if fault and options.faults:
            print(json.dumps({"request": turn.request, "wanted": fault[0], "got": fault[1]}, ensure_ascii=False))
    del start
    return f"{right}/{options.count}"


if __name__ == "__main__":
    main()
