"""Rows of tokens for training: conversations after distracting prefixes, with the assistant's tokens marked.

The tokens are those that the chat template renders (a test compares them). Long distracting passages are
drawn from pools that were tokenized once, since tokenizing would else cost more than training.
"""

import json
import math
import random
from collections import abc
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from pensieve.scripts.demo_model.distractors import Distractors
from pensieve.scripts.demo_model.tasks import Call, Result, Say, Step, Tasks
from pensieve.scripts.demo_model.words import Words

Ids = list[int]
FIRST_WEIGHT = 4


@dataclass(slots=True)
class Row:
    """Tokens, and how much predicting each of them counts: 0 where it is not the assistant's."""

    ids: Ids = field(default_factory=list)
    weights: list[int] = field(default_factory=list)

    def add(self, ids: abc.Sequence[int], weight: int = 0) -> None:
        """Append tokens."""
        self.ids.extend(ids)
        self.weights.extend([weight] * len(ids))


class Renderer:
    """Writes messages as the chat template does."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.encode_text = tokenizer
        self.end = self.encode("<|im_end|>")
        self.newline = self.encode("\n")
        self.heads = {
            role: self.encode(f"<|im_start|>{role}\n") for role in ("system", "user", "assistant", "tool")
        }
        self.tools_head = self.encode("# Tools\n")

    def encode(self, text: str) -> Ids:
        """Return the tokens of a text that begins where a token must begin."""
        ids: Ids = self.encode_text.encode(text, add_special_tokens=False).ids
        return ids

    def message(self, row: Row, role: str, body: Ids) -> None:
        """Append a message that is not the assistant's."""
        row.add(self.heads[role])
        row.add(body)
        row.add(self.end + self.newline)

    def system(self, row: Row, tools: abc.Sequence[Ids], body: Ids) -> None:
        """Append the first system message: tools, one a line, then the text."""
        listed = [token for tool in tools for token in (*tool, *self.newline)]
        self.message(row, "system", [*self.tools_head, *listed, *self.newline, *body] if tools else body)

    def assistant(self, row: Row, step: Say | Call) -> None:
        """Append the assistant's words or call, marked to be learned."""
        row.add(self.heads["assistant"])
        ids = self.encode(step.text if isinstance(step, Say) else call_text(step)) + self.end
        # The first token chooses between calling and saying, and finds the line to quote: all hangs on it.
        row.add(ids[:1], weight=FIRST_WEIGHT)
        row.add(ids[1:], weight=1)
        row.add(self.newline)

    def step(self, row: Row, step: Step) -> None:
        """Append one step of a turn."""
        if isinstance(step, Result):
            self.message(row, "tool", self.encode(step.text))
        else:
            self.assistant(row, step)


def call_text(call: Call) -> str:
    """Return a tool call as the model writes it."""
    body = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    return f"<tool_call>{body}</tool_call>"


class Pools:
    """Distracting text, tokenized once: a long stream of prose, system prompts, reminders and tools."""

    def __init__(self, tokenizer: Tokenizer, lines: abc.Sequence[str], seed: int, size: int) -> None:
        rng = random.Random(seed)
        distractors = Distractors(rng, lines)

        def encode(texts: list[str]) -> list[Ids]:
            return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]

        def sizes() -> int:
            return int(math.exp(rng.uniform(math.log(20), math.log(9000))))

        self.systems = encode([distractors.system(sizes()) for _ in range(size)])
        self.reminders = encode([distractors.reminder() for _ in range(size)])
        tool_sets = [
            distractors.tools(rng.choice((1, 2, 10, 60)), rng.choice((0, 0, 2, 9))) for _ in range(size // 2)
        ]
        self.tool_sets = [
            encode([json.dumps(tool, ensure_ascii=False) for tool in tools]) for tools in tool_sets
        ]
        newline = tokenizer.token_to_id("Ċ")
        chunks = encode(["\n".join(lines[i : i + 500]) + "\n" for i in range(0, len(lines), 500)])
        self.prose: npt.NDArray[np.uint16] = np.concatenate([np.array(chunk, np.uint16) for chunk in chunks])
        self.starts = np.flatnonzero(self.prose == newline) + 1

    def passage(self, rng: random.Random, num_tokens: int) -> Ids:
        """Prose from the beginning of a line on, about `num_tokens` long."""
        start = int(self.starts[rng.randrange(len(self.starts))])
        ids: Ids = self.prose[start : start + num_tokens].tolist()
        return ids


class RowMaker:
    """Draws rows of an exact length."""

    def __init__(self, tokenizer: Tokenizer, pools: Pools, lines: abc.Sequence[str], seed: int) -> None:
        self.renderer = Renderer(tokenizer)
        self.vocabulary = tokenizer.get_vocab_size()
        self.pools = pools
        self.lines = lines
        self.rng = random.Random(seed)

    def log_uniform(self, low: float, high: float) -> int:
        """Draw an integer between two bounds, each order of magnitude alike."""
        return int(math.exp(self.rng.uniform(math.log(low), math.log(max(low, high)))))

    def row(self, length: int) -> Row:
        """Conversations one after another until the row is full; the last is cut off."""
        row = Row()
        while len(row.ids) < length - 20:
            self.conversation(row, length - len(row.ids))
        padding = length - len(row.ids)
        row.add(self.renderer.newline * max(0, padding))
        row.ids, row.weights = row.ids[:length], row.weights[:length]
        return row

    def conversation(self, row: Row, room: int) -> None:
        """Append a conversation: a prefix that takes a part of the room, then some turns."""
        rng = self.rng
        tasks = Tasks(rng, Words(rng, self.lines))
        begun = len(row.ids)
        self.prefix(row, 0 if rng.random() < 0.08 else self.log_uniform(60, 0.8 * room))
        for number in range(rng.choice((1, 2, 3, 4, 6, 12, 30))):
            if len(row.ids) - begun > room:
                return
            self.turn(row, tasks, late=self.late_system(number, room))

    def late_system(self, number: int, room: int) -> int:
        """Draw the tokens of system text beside a prompt: often some beside the first, seldom later."""
        if self.rng.random() > (0.3 if number == 0 else 0.06):
            return 0
        return self.log_uniform(20, min(5000, room / 3))

    def prefix(self, row: Row, num_tokens: int) -> None:
        """Append a system message of about so many tokens, with tools that take a random part of them."""
        if not num_tokens:
            return
        rng, pools = self.rng, self.pools
        share = rng.random() if rng.random() < 0.9 else 0.0
        tools = rng.choice(pools.tool_sets) if share else []
        while share and sum(map(len, tools)) < share * num_tokens / 2:
            tools = [*tools, *rng.choice(pools.tool_sets)]
        tools = self.cut_tools(tools, num_tokens)
        left = num_tokens - sum(map(len, tools))
        body = rng.choice(pools.systems)
        while len(body) < left:
            body = body + self.renderer.newline * 2 + self.passage(left - len(body))
        self.renderer.system(row, tools, body[: max(left, 60)])

    def cut_tools(self, tools: abc.Sequence[Ids], num_tokens: int) -> list[Ids]:
        """As many of the tools as fit, in their order."""
        kept: list[Ids] = []
        for tool in tools:
            num_tokens -= len(tool)
            if num_tokens > 0:
                kept.append(tool)
        return kept

    def passage(self, num_tokens: int) -> Ids:
        """Distracting text: prose, or a system prompt out of the pool."""
        if self.rng.random() < 0.5:
            return self.pools.passage(self.rng, num_tokens)
        return self.rng.choice(self.pools.systems)[:num_tokens]

    def turn(self, row: Row, tasks: Tasks, late: int) -> None:
        """Append a turn, now and then with reminders about the request and system text before it.

        The client sends that system text after the prompt; the chat template puts it before.
        """
        turn = tasks.turn()
        if late:
            body = self.passage(late)
            while len(body) < late:
                body = body + self.renderer.newline + self.passage(late - len(body))
            self.renderer.message(row, "system", body)
        self.renderer.message(row, "user", self.user_text(turn.request))
        for step in turn.steps:
            self.renderer.step(row, step)
            if isinstance(step, Call) and self.rng.random() < 0.01:
                self.renderer.message(row, "system", self.passage(self.log_uniform(20, 200)))

    def user_text(self, request: str) -> Ids:
        """Return the request, with a reminder before it, or seldom after it."""
        rng, renderer = self.rng, self.renderer
        ids = renderer.encode(request)
        blank = renderer.newline * rng.choice((1, 2, 2))
        if rng.random() < 0.22:
            ids = [*rng.choice(self.pools.reminders), *blank, *ids]
            if rng.random() < 0.25:
                ids = [*rng.choice(self.pools.reminders), *blank, *ids]
        if rng.random() < 0.03:
            ids = [*ids, *blank, *rng.choice(self.pools.reminders)]
        return ids

    def repeats(self, length: int) -> Row:
        """Random tokens, repeated: the quickest teacher of copying. The repetitions are marked."""
        row, rng = Row(), self.rng
        while len(row.ids) < length:
            kinds = rng.choices(range(256, self.vocabulary - 5), k=rng.choice((4, 8, 16, 32, 64)))
            sequence = rng.choices(kinds, k=rng.randint(4, 120))
            row.add(sequence)
            for _ in range(rng.randint(1, 3)):
                start = rng.randrange(len(sequence) - 2)
                # The first tokens of a repetition cannot be known.
                row.add(sequence[start : start + 2])
                row.add(sequence[start + 2 :], weight=1)
        row.ids, row.weights = row.ids[:length], row.weights[:length]
        return row
