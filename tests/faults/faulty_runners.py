"""Engines with faults, which `watched_server` starts where one of the functions here is its `faulty_build`.

Each builds the model as the server does. A sign in a prompt, which no other prompt has, calls its fault.
"""

import json
import random
import sys
import threading
from typing import Any

import mlx.core as mx

from pensieve.engine.loading.build import build
from pensieve.engine.runner import Runner
from pensieve.engine.step import DecodeRow, StepPlan
from pensieve.engine.step_in_flight import Sampled

from ..engine.poisoned_runner import PoisonedRunner

CALLS_FOR_NAN, CALLS_FOR_THE_END = "~", "^"

ELSEWHERE, OUT_OF_RANGE = "MLX in another thread", "ids out of range"
"""Lines of a watched engine."""

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


def build_watched(planned: Any) -> tuple[Runner, Any]:
    """Build an engine that tells of ids out of range, and of MLX in other threads than the engine's own."""
    runner, described = build(planned)
    runner.__class__ = WatchedRunner
    watch_threads()
    other = threading.Thread(target=mx.arange, args=(1,))  # the watch itself is tried: one call is told of
    other.start()
    other.join()
    return runner, described


def watch_threads() -> None:
    """Have each of MLX's functions tell of a call from another thread than this one."""
    own = threading.get_ident()

    def watched(name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if threading.get_ident() != own:
                print(
                    f"{ELSEWHERE}: mx.{name} in {threading.current_thread().name}",
                    file=sys.stderr,
                    flush=True,
                )
            return function(*arguments, **options)

        return call

    for name in dir(mx):
        function = getattr(mx, name)
        if callable(function) and not isinstance(function, type):
            setattr(mx, name, watched(name, function))


class WatchedRunner(Runner):
    """Tells of ids that no embedding has."""

    def _forward(self, plan: StepPlan) -> Sampled:
        fed = [row.token for row in plan.decode if row.token is not None]
        fed += [token for chunk in plan.prefill for token in chunk.tokens]
        if not 0 <= min(fed, default=0) <= max(fed, default=0) < self._paged.vocab_size:
            print(f"{OUT_OF_RANGE}: {min(fed)} to {max(fed)}", file=sys.stderr, flush=True)
        return super()._forward(plan)


class FaultyRunner(PoisonedRunner):
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

    def is_poisoned(self, row: DecodeRow) -> bool:
        """See PoisonedRunner."""
        length = self._prompt_lengths.get(row.seq_id)
        return length is not None and row.position > length + NAN_AFTER


class ChaoticRunner(Runner):
    """Fails in the middle of one step in a hundred, when KV is written already."""

    _rng = random.Random(58)

    def _forward(self, plan: StepPlan) -> Sampled:
        sampled = super()._forward(plan)
        if self._rng.random() < FAILING_SHARE:
            raise RuntimeError("chaos")
        return sampled
