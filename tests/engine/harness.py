"""Drives scheduler and runner without asyncio, and judges what they make against plain mlx-lm."""

import random
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from pensieve.engine.attention.paged_model import PagedModel
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.runner import Runner
from pensieve.engine.served_model import WindowPool
from pensieve.engine.step import SamplingParams
from pensieve.scheduler.config import SchedulerConfig
from pensieve.scheduler.constraint import Constraint
from pensieve.scheduler.scheduler import Scheduler
from pensieve.scheduler.sequence import Request, Sequence, SequenceStatus

from ..scheduler.residues import Residues
from ..stepper import Stepper, StepRunner

CONFIG = SchedulerConfig(max_batch=8, step_tokens=48)

TIE = 1e-4
"""Two logits closer than this may change places by rounding alone."""

QUANTISED_TIE = 0.3
"""The bound with quantised KV, where rounding may change a code. mlx-lm's own logits of a prompt in one pass
and in slices are at most 0.27 apart with 8 bits, in 60 prompts of a tiny model. With 4 bits they are up to
0.35 apart, so that the bound is the stricter one there: a difference above it need not be an error."""


def mixing_runner(paged: PagedModel, num_blocks: int, on_host: bool) -> Runner:
    """A runner that computes some steps in one pass, and others, with more prompt tokens, in several."""
    return Runner(paged, Capacity(num_blocks), on_host, mixed_tokens=24)


@dataclass
class Verdict:
    """How many sampled tokens were judged, how many differ, and how many of those are ties.

    gap: largest difference of logits between a token and the one that the judge would have taken.
    """

    tokens: int = 0
    ties: int = 0
    wrong: int = 0
    seen: set[int] = field(default_factory=set, repr=False)  # the different tokens among them
    tie: float = TIE
    gap: float = 0.0

    def judge(self, model: Any, sequence: Sequence, caches: list[Any] | None = None) -> None:
        """Compare a greedy sequence with the argmax of one plain forward pass over all of its tokens."""
        logits = np.array(model(mx.array([sequence.tokens[:-1]]), cache=caches)[0].astype(mx.float32))
        given = sequence.request.constraint
        constraint = given.resumed([]) if given is not None else None
        for position in range(sequence.num_prompt_tokens, len(sequence.tokens)):
            row, token = _adjusted(logits[position - 1], sequence, position), sequence.tokens[position]
            if constraint is not None:
                row = _masked(row, constraint.mask())
                assert constraint.accept(token)
            self.tokens += 1
            self.seen.add(token)
            if token != row.argmax():
                gap = float(row.max() - row[token])
                self.gap = max(self.gap, gap)
                is_tie = gap <= self.tie
                self.ties += is_tie
                self.wrong += not is_tie


def _adjusted(row: Any, sequence: Sequence, position: int) -> Any:
    """Adjust the logits of the token at `position` as its request asks, one token after another."""
    sampling, row = sequence.request.sampling, row.copy()
    answer = sequence.tokens[sequence.num_prompt_tokens : position]
    for token in set(sequence.tokens[:position]):
        penalty = sampling.repetition_penalty
        row[token] = row[token] / penalty if row[token] > 0 else row[token] * penalty
    for token in set(answer):
        row[token] -= sampling.presence_penalty + sampling.frequency_penalty * answer.count(token)
    for token, bias in sampling.logit_bias:
        row[token] += bias
    return row


def _masked(row: Any, mask: bytes | None) -> Any:
    if mask is None:
        return row
    allowed = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")[: len(row)]
    return np.where(allowed, row, -np.inf)


class Machine(Stepper):
    """A scheduler over a runner, and all sequences that it was given."""

    def __init__(
        self,
        runner: StepRunner,
        num_blocks: int,
        config: SchedulerConfig = CONFIG,
        max_context: int = 4096,
        num_state_slots: int = 0,
        window: WindowPool | None = None,
    ) -> None:
        super().__init__(Scheduler(config, num_blocks, max_context, num_state_slots, window), runner)
        self.sequences: list[Sequence] = []

    def add(
        self,
        prompt: list[int],
        max_tokens: int,
        sampling: SamplingParams | None = None,
        constraint: Constraint | None = None,
        checkpoints: tuple[int, ...] = (),
    ) -> Sequence:
        request = Request(
            prompt, sampling or SamplingParams(), max_tokens, constraint=constraint, checkpoints=checkpoints
        )
        sequence = self.scheduler.add(request)
        self.sequences.append(sequence)
        return sequence


def grow_tree(
    machine: Machine, rng: random.Random, vocab: int, num_requests: int, constrained: float = 0.0
) -> list[Sequence]:
    """Run one random conversation tree: requests continue, edit or branch off earlier ones, some at once.

    constrained: share of the requests whose tokens must conform to something.
    Returns the sequences that ran to their end.
    """
    histories = [_tokens(rng, vocab, rng.randint(1, 90))]
    started: list[Sequence] = []
    while len(started) < num_requests:
        base = rng.choice(histories)
        kept = base[: rng.choice([len(base), len(base), rng.randint(1, len(base))])]
        prompt = kept + _tokens(rng, vocab, rng.choice([1, 2, 31, 32, 33, rng.randint(1, 60)]))
        constraint = Residues(rng.randrange(16), vocab=vocab) if rng.random() < constrained else None
        marks = (len(prompt) // 2, len(prompt) - 3)
        started.append(machine.add(prompt, rng.randint(1, 12), None, constraint, checkpoints=marks))
        for _ in range(rng.choice([0, 0, 1, 3, 20])):
            machine.step()
        if rng.random() < 0.1:
            machine.scheduler.end(rng.choice(started), "abort")
        histories += [s.tokens for s in started if s.status is SequenceStatus.FINISHED]
    machine.finish()
    return [sequence for sequence in started if sequence.finish_reason == "length"]


def judge_trees(model: Any, runner: StepRunner, num_trees: int) -> Verdict:
    rng, verdict = random.Random(num_trees), Verdict()
    machine = Machine(runner, num_blocks=400)
    for _ in range(num_trees):
        for sequence in grow_tree(machine, rng, 512, num_requests=4):
            verdict.judge(model, sequence)
    return verdict


def _tokens(rng: random.Random, vocab: int, count: int) -> list[int]:
    return [rng.randrange(vocab) for _ in range(count)]
