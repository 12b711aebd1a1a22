"""Serves a few prompts as the product does, and judges every answer by mlx-lm with its own caches."""

import random
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from pensieve.scheduler.sequence import Sequence

from ..engine.harness import TIE, Machine
from .family import VOCAB

ANSWER = 8
"""Tokens of each answer."""

HEAD = 70
"""Tokens that long prompts begin with."""

CACHED = 2 * 32 + 4 * 32
"""Tokens of the later prompts that are read from the cache: whole blocks."""


def serve(machine: Machine) -> list[Sequence]:
    """Answer five prompts: three cold ones at once, then two at once that continue them.

    The longest prompt is read in slices. Of the later prompts one continues a whole conversation, the other
    branches off inside a prompt.
    """
    rng = random.Random(5)

    def draw(count: int) -> list[int]:
        return [rng.randrange(VOCAB) for _ in range(count)]

    def answer(prompts: list[list[int]]) -> list[Sequence]:
        started = [machine.add(prompt, ANSWER, checkpoints=(HEAD,)) for prompt in prompts]
        machine.finish()
        return started

    head = draw(HEAD)
    first = answer([head + draw(60), draw(20), draw(33)])
    return first + answer([first[0].tokens + draw(17), head + draw(25)])


@dataclass
class Judge:
    """mlx-lm's model with mlx-lm's own caches, which reads a prompt at once and an answer token by token.

    On the CPU: on CUDA it answers wrongly now and then (bench/micro/gpu.md).
    by_token: False for reading prompt and answer at once.
    """

    model: Any
    by_token: bool = True
    seen: set[int] = field(default_factory=set)  # the different tokens of all answers
    ties: int = 0
    _checked: set[tuple[int, ...]] = field(default_factory=set, repr=False)

    def check(self, sequence: Sequence) -> None:
        """Assert that each token of a greedy answer is the best one here, up to rounding."""
        if tuple(sequence.tokens) in self._checked:
            return
        length = sequence.num_prompt_tokens
        answer = sequence.tokens[length:]
        assert len(answer) == ANSWER
        for place, (token, logits) in enumerate(zip(answer, self._logits(sequence), strict=True)):
            gap = logits.max() - logits[token]
            assert gap <= TIE, f"token {place} behind {length} is not {logits.argmax()}: {gap:.3g} below"
            self.ties += int(token != logits.argmax())
        self.seen.update(answer)
        self._checked.add(tuple(sequence.tokens))

    def _logits(self, sequence: Sequence) -> Any:
        """Return the logits at each place of the answer, (tokens, vocabulary)."""
        tokens, length = sequence.tokens, sequence.num_prompt_tokens
        cuts = [length, *range(length + 1, len(tokens))] if self.by_token else [len(tokens) - 1]
        with mx.stream(mx.cpu):
            caches = make_prompt_cache(self.model)
            passes = [
                self.model(mx.array([tokens[start:end]]), cache=caches)[0]
                for start, end in pairwise([0, *cuts])
            ]
            return np.array(mx.concatenate(passes)[length - 1 :])
