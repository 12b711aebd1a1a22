"""A turn of a recurrent model: passes over the model, and the time to the first token.

    python -m pensieve.bench.micro.turn_passes [--hidden 256 1024] [--history 20000] [--new 200]

Random weights in float32 on MLX's CPU device: the hybrid of the comparison (`random_weights.py`), three of
four layers by the gated delta rule, and wider ones. Each turn adds tokens to a history that is computed
already, and leaves the state before its reply's header. One engine leaves it within the turn's slice, the
other ends a slice there; both take turns. Printed are the passes of a turn, decode's included, the medians of
its time, and the least processor time, all threads together, which a busy machine disturbs less.
"""

import argparse
import random
import statistics
import time
from dataclasses import replace
from typing import Any, NamedTuple

import mlx.core as mx

from ...cache.blocks import BLOCK_SIZE
from ...cache.packing import UNQUANTISED
from ...engine.attention.paged_layers import ForwardContext
from ...engine.attention.paged_model import PagedModel, probe
from ...engine.paged_caches import Capacity, PagedCaches
from ...engine.runner import Runner
from ...engine.step import SamplingParams
from ...scheduler.config import SchedulerConfig
from ...scheduler.scheduler import Scheduler
from ...scheduler.sequence import Request
from ..random_weights import CONFIGS, VOCABULARY
from .bare_engine import BareEngine, in_served_form
from .shapes import random_model

HEADER = 4
"""Tokens that a template puts before a reply."""

NUM_STATE_SLOTS = 20


class TurnFigures(NamedTuple):
    """What one turn took."""

    passes: int
    wall_s: float
    processor_s: float


class CountingCaches(PagedCaches):
    """Counts the passes over the model: each makes what stands for the model's caches once."""

    num_passes = 0

    def layers(self, context: ForwardContext) -> list[Any]:
        """Count a pass, and return its layers."""
        self.num_passes += 1
        return super().layers(context)


class CountingRunner(Runner):
    """Counts its passes over the model."""

    def __init__(self, paged: PagedModel, capacity: Capacity, on_host: bool) -> None:
        super().__init__(paged, capacity, on_host)
        self.caches: CountingCaches = CountingCaches(paged, capacity, on_host, None)

    @property
    def num_passes(self) -> int:
        """The passes so far."""
        return self.caches.num_passes


class RecurrentSession:
    """A conversation with an engine of its own."""

    def __init__(self, paged: PagedModel, history: list[int], num_tokens: int) -> None:
        """num_tokens: to which the conversation may grow."""
        num_blocks = num_tokens // BLOCK_SIZE + 1
        self.runner = CountingRunner(paged, Capacity(num_blocks, NUM_STATE_SLOTS), on_host=True)
        scheduler = Scheduler(SchedulerConfig(), num_blocks, num_tokens, NUM_STATE_SLOTS)
        self._engine = BareEngine(self.runner, scheduler)
        self._tokens = history
        self.turn([])

    def turn(self, new: list[int]) -> TurnFigures:
        """Ask for a token after the history and `new`."""
        self._tokens = [*self._tokens, *new]
        marks, before = (len(self._tokens),), self.runner.num_passes
        prompt = [*self._tokens, *range(HEADER)]
        started_s, used_s = time.perf_counter(), time.process_time()
        self._engine.scheduler.add(Request(prompt, SamplingParams(), 1, checkpoints=marks))
        self._engine.finish()
        used_s = time.process_time() - used_s
        return TurnFigures(self.runner.num_passes - before, time.perf_counter() - started_s, used_s)


def wide_config(hidden: int) -> dict[str, Any]:
    """Return the comparison's hybrid with another hidden size, and all else as many times as wide."""
    config, factor = dict(CONFIGS["hybrid"]), hidden // CONFIGS["hybrid"]["hidden_size"]
    names = ["hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"]
    names += ["linear_num_value_heads", "linear_num_key_heads"]
    return config | {name: factor * config[name] for name in names}


def main() -> None:
    """Print a line for each size and way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--history", type=int, default=20_000)
    parser.add_argument("--new", type=int, default=200)
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    rng = random.Random(0)
    num_tokens = options.history + (options.turns + 2) * (options.new + BLOCK_SIZE)
    for hidden in options.hidden:
        model = random_model(wide_config(hidden))
        model.set_dtype(mx.float32)
        within = in_served_form(probe(model, UNQUANTISED), on_host=True)
        history = rng.choices(range(VOCABULARY), k=options.history)
        sessions = [
            RecurrentSession(paged, history, num_tokens)
            for paged in (replace(within, leaves_states=False), within)
        ]
        turns: list[list[TurnFigures]] = [[] for _ in sessions]
        for _ in range(options.turns):
            new = rng.choices(range(VOCABULARY), k=options.new)
            for session, found in zip(sessions, turns, strict=True):
                found.append(session.turn(new))
        for name, found in zip(("slices end there", "within a slice"), turns, strict=True):
            passes = statistics.median(turn.passes for turn in found)
            wall_ms = 1e3 * statistics.median(turn.wall_s for turn in found)
            used_ms = 1e3 * min(turn.processor_s for turn in found)
            print(
                f"hidden {hidden}, {name:16}: {passes:g} passes, first token after {wall_ms:.0f} ms, "
                f"processor {used_ms:.0f} ms",
                flush=True,
            )


if __name__ == "__main__":
    main()
