"""Where a served fleet's time goes, by kind of step: the bare scheduler and engine over prefilled prompts.

    python -m pensieve.bench.micro.served_steps                                  # a small random model
    python -m pensieve.bench.micro.served_steps demo --sessions 4
    python -m pensieve.bench.micro.served_steps --shape qwen3-4b --shared-tokens 24000 --new-tokens 2048 \\
        --answer-tokens 128 --seconds 400 --json steps.json                      # on a GPU

The first part plays a fleet as the server would: all sessions' prompts (`--shared-tokens` the same, and
`--new-tokens` of their own) are queued at once. The second part makes each kind of step on purpose: no, one,
four, ... sessions decode, first alone, then beside one prompt after another. These prompts come in slices of
three lengths, at three depths, three times each, and no target time cuts them. All KV is really computed.

A step's time lasts from the result before it to its own. The first step of a shape (the same number of rows,
the same slice length at the same position) stands apart from later ones, because some devices plan or compile
for a new shape. `host %` is the time of scheduling and queueing; where NumPy attends, it includes attention.
--json FILE has a record of every step for fitting a cost model; StepRecord in step_records.py has its fields.
"""

import argparse
import dataclasses
import random
import tempfile
import time
from collections import abc
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import mlx.core as mx

from ...cache.blocks import BLOCK_SIZE
from ...engine.attention.paged_model import PagedModel, probe
from ...engine.loading.hub import resolve
from ...engine.loading.loader import compute_dtype, load
from ...engine.loading.model_info import read_model_info
from ...engine.step import SamplingParams
from ...scheduler.config import SchedulerConfig
from ...scheduler.scheduler import Scheduler
from ...scheduler.sequence import Request, Sequence
from ..random_model import write_model
from ..report import conditions, write_json
from ..summary import percentile
from .bare_engine import timed_runner
from .shapes import SHAPES, random_model
from .step_records import OutOfTime, RecordedEngine, Recorder, describe, describe_kinds

BATCHES = (1, 4, 16)
REPEATS = 3
DECODE_STEPS = 24
UNCUT_MS = 60_000.0
"""A target time that no step reaches, so that slices keep their length."""


@dataclass(frozen=True)
class Workload:
    """Sizes of the measurement, in tokens but for the sessions."""

    sessions: int
    shared_tokens: int
    new_tokens: int
    answer_tokens: int
    step_tokens: int
    itl_target_ms: float

    @property
    def batches(self) -> list[int]:
        """Numbers of sessions that decode together."""
        return sorted({batch for batch in BATCHES if batch < self.sessions} | {self.sessions})

    @property
    def slice_sizes(self) -> list[int]:
        """Lengths of slices."""
        return sorted({max(2, self.step_tokens // part) for part in (1, 2, 4)}, reverse=True)

    @property
    def depths(self) -> list[int]:
        """Tokens in the prefix cache before a joining prompt's first slice: whole blocks."""
        return sorted({self.shared_tokens * half // 2 // BLOCK_SIZE * BLOCK_SIZE for half in (0, 1, 2)})

    @property
    def sweep_tokens(self) -> int:
        """Most tokens that a session decodes in the second part: one a step."""
        joins = REPEATS * len(self.depths) * sum(self.new_tokens // size + 6 for size in self.slice_sizes)
        return DECODE_STEPS + self.sessions * (self.new_tokens // self.step_tokens + 2) + 2 * joins

    @property
    def num_kv_tokens(self) -> int:
        """Tokens whose KV must have room, so that nothing is evicted or preempted."""
        answers = max(self.answer_tokens, self.sweep_tokens)
        joins = REPEATS * len(self.depths) * len(self.slice_sizes) * (self.new_tokens + 3 * BLOCK_SIZE)
        each = self.new_tokens + answers + 3 * BLOCK_SIZE
        return self.shared_tokens + (self.sessions + 1) * each + joins


class StepMeasurement:
    """Plays a workload's parts over one runner."""

    def __init__(self, recorder: Recorder, workload: Workload, vocab_size: int) -> None:
        self._recorder = recorder
        self._workload = workload
        self._vocab = range(vocab_size)
        self._rng = random.Random(0)
        self._shared = self._draw(workload.shared_tokens)

    def _draw(self, count: int) -> list[int]:
        return self._rng.choices(self._vocab, k=count)

    def _engine(self, max_batch: int, step_tokens: int, itl_target_ms: float) -> RecordedEngine:
        """An engine with an empty prefix cache."""
        config = SchedulerConfig(max_batch, step_tokens, itl_target_ms)
        num_blocks = -(-self._workload.num_kv_tokens // BLOCK_SIZE)
        return RecordedEngine(self._recorder, Scheduler(config, num_blocks, self._workload.num_kv_tokens))

    def _add(self, engine: RecordedEngine, cached: int, max_tokens: int) -> Sequence:
        """Queue a prompt that begins with `cached` shared tokens; its last token is left to decode."""
        prompt = self._shared[:cached] + self._draw(self._workload.new_tokens + 1)
        return engine.scheduler.add(Request(prompt, SamplingParams(), max_tokens))

    def play_fleet(self) -> dict[str, float]:
        """Play all sessions at once; return wall time, TTFT and ITL in seconds. Raises OutOfTime."""
        work, self._recorder.part = self._workload, "fleet"
        engine = self._engine(work.sessions, work.step_tokens, work.itl_target_ms)
        started_s = time.perf_counter()
        times: dict[int, list[float]] = {}
        for _ in range(work.sessions):
            times[self._add(engine, work.shared_tokens, work.answer_tokens).seq_id] = []
        while engine.scheduler.has_work:
            stepped = engine.step()
            now_s = time.perf_counter() - started_s
            for progress in stepped.progress:
                times[progress.sequence.seq_id] += [now_s] * len(progress.tokens)
        first = [own[0] for own in times.values()]
        gaps = [later - earlier for own in times.values() for earlier, later in pairwise(own)]
        figures = {"wall_s": time.perf_counter() - started_s, "ttft_max_s": max(first)}
        shares = {"ttft_p50_s": (first, 0.5), "itl_p50_s": (gaps, 0.5), "itl_p99_s": (gaps, 0.99)}
        return figures | {name: percentile(*pair) or 0.0 for name, pair in shares.items()}

    def sweep(self, rows: int) -> None:
        """Decode `rows` sessions alone, then beside slices of prompts. Raises OutOfTime.

        Without rows, one session only brings the shared prefix into the cache.
        """
        work, self._recorder.part = self._workload, "sweep"
        engine = self._engine(rows + 1, max(work.step_tokens, rows + 2), UNCUT_MS)
        max_tokens = work.sweep_tokens if rows else 1
        sessions = [self._add(engine, work.shared_tokens, max_tokens) for _ in range(max(1, rows))]
        while any(len(session.tokens) == session.num_prompt_tokens for session in sessions):
            engine.step()
        for _ in range(DECODE_STEPS if rows else 0):
            engine.step()
        for size in work.slice_sizes:
            # Decode rows are taken from the step's tokens first.
            config = dataclasses.replace(engine.scheduler.config, step_tokens=size + rows)
            engine.scheduler.config = config
            for depth in work.depths:
                for _ in range(REPEATS):
                    self._join(engine, depth)
        for session in sessions:
            engine.scheduler.end(session, "abort")
        engine.finish()

    def _join(self, engine: RecordedEngine, depth: int) -> None:
        """Let a prompt join that finds `depth` tokens in the cache, and step until its first token."""
        sequence = self._add(engine, depth, 1)
        while sequence.finish_reason is None:
            engine.step()


def load_model(name: str | None, shape: str | None, kv_bits: int) -> PagedModel:
    """Load the model that the command names."""
    if shape is not None:
        model = random_model(SHAPES[shape])
        if compute_dtype() is not None:
            model.set_dtype(mx.float32)
        return probe(model, kv_bits)
    with tempfile.TemporaryDirectory() as folder:
        path = write_model(Path(folder) / "model") if name is None else resolve(name, print)
        paged = load(read_model_info(path, name or "random", compute_dtype(), kv_bits))
        mx.eval(paged.model.parameters())
    return paged


def parse(arguments: abc.Sequence[str] | None) -> tuple[argparse.Namespace, Workload]:
    """Read the command's arguments. Ends the program when they contradict one another."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="folder, hub id or 'demo' (default: a random model)")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this shape instead")
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--shared-tokens", type=int, default=1024, help="that all prompts begin with")
    parser.add_argument("--new-tokens", type=int, default=128, help="of each prompt's own")
    parser.add_argument("--answer-tokens", type=int, default=32, help="of each session of the first part")
    parser.add_argument("--step-tokens", type=int, default=128, help="of a step; the longest slice")
    target_ms = SchedulerConfig().itl_target_ms
    parser.add_argument("--itl-target-ms", type=float, default=target_ms, help="of the first part")
    parser.add_argument("--kv-bits", type=int, choices=(16, 8, 4), default=16)
    parser.add_argument("--seconds", type=float, default=50, help="stop after so long, with what is there")
    parser.add_argument("--json", type=Path, help="file for every step's record")
    options = parser.parse_args(arguments)
    for name in ("sessions", "new_tokens", "answer_tokens"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    sizes = {field.name: getattr(options, field.name) for field in dataclasses.fields(Workload)}
    try:
        SchedulerConfig(options.sessions, options.step_tokens, options.itl_target_ms)
    except ValueError as error:
        parser.error(str(error))
    return options, Workload(**sizes)


def main(arguments: abc.Sequence[str] | None = None) -> None:
    """Measure, print the tables and write the records."""
    options, workload = parse(arguments)
    paged = load_model(options.model, options.shape, options.kv_bits)
    runner = timed_runner(paged, workload.num_kv_tokens)
    recorder = Recorder(runner, options.seconds)
    measurement = StepMeasurement(recorder, workload, paged.vocab_size)
    figures: dict[str, float] = {}
    try:
        figures = measurement.play_fleet()
        for rows in (0, *reversed(workload.batches)):
            measurement.sweep(rows)
    except OutOfTime:
        print(f"stopped after {options.seconds:g} s: kinds of steps may be missing, or have few steps")
    print(f"attention: {runner.caches.attention_backend}, {paged.kv_bytes_per_token} bytes of KV a token\n")
    print("fleet: " + ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    print(describe_kinds([record for record in recorder.records if record.part == "fleet"]) + "\n")
    swept = [record for record in recorder.records if record.part == "sweep"]
    print(describe(swept, depth=max(workload.new_tokens, workload.shared_tokens // 2)))
    if options.json is not None:
        records = [dataclasses.asdict(record) for record in recorder.records]
        settings = {"workload": dataclasses.asdict(workload), "fleet": figures, "kv_bits": options.kv_bits}
        write_json(options.json, {"conditions": conditions(), **settings, "steps": records})


if __name__ == "__main__":
    main()
