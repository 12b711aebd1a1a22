"""Engines with faults, which `watched_server` starts where one of the functions here is its `faulty_build`.

Each builds the model as the server does. A sign in a prompt, which no other prompt has, calls its fault.
"""

import json
import random
from typing import Any

import mlx.core as mx

from pensieve.engine.loading.build import build
from pensieve.engine.runner import Runner
from pensieve.engine.step import StepPlan
from pensieve.engine.step_in_flight import Sampled

CALLS_FOR_NAN, CALLS_FOR_THE_END = "~", "^"

NAN_AFTER = 4
"""Tokens of an answer after which its logits are no numbers."""

FAILING_SHARE = 0.01
"""Of steps, in a chaotic engine."""


def build_faulty(planned: Any) -> tuple[Runner, Any]:
    """Build an engine with the faults of `FaultyRunner`."""
    runner, described = build(planned)
    runner.__class__ = FaultyRunner
    assert isinstance(runner, FaultyRunner)
    vocabulary = json.loads((planned.info.path / "tokenizer.json").read_text(encoding="utf-8"))["model"][
        "vocab"
    ]
    runner.plant(vocabulary[CALLS_FOR_NAN], vocabulary[CALLS_FOR_THE_END])
    return runner, described


def build_chaotic(planned: Any) -> tuple[Runner, Any]:
    """Build an engine whose steps fail now and then."""
    runner, described = build(planned)
    runner.__class__ = ChaoticRunner
    return runner, described


class FaultyRunner(Runner):
    """Gives no numbers to sequences with one token in their prompts, and fails for ever after another."""

    def plant(self, nan_token: int, end_token: int) -> None:
        """Take what calls for the faults."""
        self._nan_token, self._end_token = nan_token, end_token
        self._prompt_lengths: dict[int, int] = {}  # of sequences that are to get NaN
        self._is_lost = False

    def _forward(self, plan: StepPlan) -> Sampled:
        for chunk in plan.prefill:
            self._is_lost |= self._end_token in chunk.tokens
            if self._nan_token in chunk.tokens or chunk.seq_id in self._prompt_lengths:
                self._prompt_lengths[chunk.seq_id] = chunk.start + len(chunk.tokens)
        sampled = super()._forward(plan)
        if self._is_lost:
            raise RuntimeError("lost for ever")
        return sampled

    def logits(self, rows: list[Any]) -> mx.array:
        """See Runner."""
        return self._poison(super().logits(rows), rows)

    def mixed_logits(self, rows: list[Any], chunks: list[Any]) -> mx.array | None:
        """See Runner."""
        out = super().mixed_logits(rows, chunks)
        return None if out is None else self._poison(out, rows)

    def _poison(self, out: mx.array, rows: list[Any]) -> mx.array:
        lengths = self._prompt_lengths
        is_bad = [row.seq_id in lengths and row.position > lengths[row.seq_id] + NAN_AFTER for row in rows]
        return mx.where(mx.array(is_bad)[:, None], mx.nan, out) if any(is_bad) else out


class ChaoticRunner(Runner):
    """Fails in the middle of one step in a hundred, when KV is written already."""

    _rng = random.Random(58)

    def _forward(self, plan: StepPlan) -> Sampled:
        sampled = super()._forward(plan)
        if self._rng.random() < FAILING_SHARE:
            raise RuntimeError("chaos")
        return sampled
