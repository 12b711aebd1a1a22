"""What a model computes again where layers with a window keep all tokens, and where they forget them.

    python -m pensieve.bench.micro.forgotten_windows
    python -m pensieve.bench.micro.forgotten_windows --model Gemma-4-26B-A4B --sessions 1 3 6

The server's own memory plan for a Mac divides memory in both ways, and the real scheduler serves sessions of
one head, each with its own project and turns, that all send their next turn as soon as they have the answer.
No model runs, and tokens are made up. Printed is how many prompt tokens are computed for each that is new: 1
is the least. No time is measured.
"""

import argparse
import random
from dataclasses import replace
from pathlib import Path

from ...engine.config import EngineConfig
from ...engine.loading.device import Device
from ...engine.loading.memory_plan import MemoryPlan, make_plan
from ...engine.loading.model_info import ModelInfo
from ...engine.step import SamplingParams, StepResult, StepTime
from ...scheduler.config import SchedulerConfig
from ...scheduler.scheduler import Scheduler
from ...scheduler.sequence import Request, Sequence
from ..report import table

VOCAB = 30_000
HEAD, PROJECT, QUESTION, ANSWER = 16_000, 2_000, 600, 250
"""Tokens that all sessions share, that a session has to itself, and of each of its turns."""

STEP_S = 0.001


def model(name: str, weight_bytes: int, kv_bytes: int, window_bytes: int, window: int) -> ModelInfo:
    """Return the facts of a 4-bit model that its memory plan needs; bytes are those of a token."""
    return ModelInfo(
        name=name,
        path=Path(),
        model_type="",
        vocab_size=VOCAB,
        context_length=131_072,
        weight_bytes=weight_bytes,
        dtype="bfloat16",
        quantization="4-bit",
        num_layers=1,
        kv_bytes_per_token=kv_bytes,
        activation_bytes_per_token=1,
        eos_token_ids=frozenset(),
        default_sampling=SamplingParams(),
        kv_bits=16,
        window=window,
        window_bytes_per_token=window_bytes,
    )


# Sizes as `scripts/docs.py` finds them with mlx-lm's own models.
MODELS = [
    model("gpt-oss-20b", 11_775_677_568, 49_152, 24_576, 128),
    model("Gemma-4-26B-A4B", 14_200_055_868, 225_280, 204_800, 1024),
]


class Fleet:
    """Sessions that all take turns at once."""

    def __init__(self, plan: MemoryPlan, num_sessions: int) -> None:
        config, slots = SchedulerConfig().with_step_tokens(plan.step_tokens), plan.num_state_slots
        self._scheduler = Scheduler(config, plan.num_blocks, plan.max_context, slots, plan.window)
        self._rng = random.Random(1)
        head = self._tokens(HEAD)
        self._histories = [head + self._tokens(PROJECT) for _ in range(num_sessions)]
        self._session_of: dict[Sequence, int] = {}

    def _tokens(self, count: int) -> list[int]:
        return [self._rng.randrange(VOCAB) for _ in range(count)]

    def _ask(self, session: int) -> None:
        prompt = self._histories[session] + self._tokens(QUESTION)
        marks = (HEAD, len(prompt) - QUESTION)
        sequence = self._scheduler.add(Request(prompt, SamplingParams(), ANSWER, checkpoints=marks))
        self._session_of[sequence] = session

    def play(self, num_turns: int) -> float:
        """Let each session take its turns; return the tokens computed for each new one."""
        num_sessions = len(self._histories)
        left = [num_turns - 1] * num_sessions
        for session in range(num_sessions):
            self._ask(session)
        while self._session_of:
            plan = self._scheduler.schedule()
            assert plan is not None, "each step's result is known before the next one is planned"
            tokens = {row.seq_id: self._rng.randrange(VOCAB) for row in plan.decode}
            self._scheduler.take_time(StepTime(plan.step_id, STEP_S))
            self._scheduler.update(StepResult(plan.step_id, tokens))
            for sequence in [sequence for sequence in self._session_of if sequence.finish_reason]:
                session = self._session_of.pop(sequence)
                self._histories[session] = sequence.tokens
                if left[session]:
                    left[session] -= 1
                    self._ask(session)
        num_new = HEAD + num_sessions * (PROJECT + num_turns * QUESTION)
        return self._scheduler.counters.computed_tokens / num_new


def parse_options(text: str | None, models: list[ModelInfo]) -> argparse.Namespace:
    """Read the command line of a bench of fleets on a Mac. text: its help. models: those to choose from."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[info.name for info in models], default=None)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 3, 6, 12, 24])
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--gb", type=float, default=22.9, help="memory that the GPU may use")
    return parser.parse_args()


def main() -> None:
    """Print a line for each model and number of sessions."""
    options = parse_options(__doc__, MODELS)
    device, lines = Device("metal", "a Mac", int(options.gb * 1e9)), []
    for info in [info for info in MODELS if options.model in (None, info.name)]:
        kinds = replace(info, window=None, window_bytes_per_token=0), info
        plans = [make_plan(each, EngineConfig(), device, SchedulerConfig().max_batch) for each in kinds]
        for num_sessions in options.sessions:
            shares = [f"{Fleet(plan, num_sessions).play(options.turns):.2f}" for plan in plans]
            tokens = [f"{plan.num_kv_tokens:,}" for plan in plans]
            lines.append([info.name, str(num_sessions), *tokens, *shares])
    names = ["model", "sessions", "tokens that fit", "with windows", "computed", "with windows"]
    print(table(names, lines))


if __name__ == "__main__":
    main()
