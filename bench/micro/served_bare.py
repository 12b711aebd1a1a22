"""Served cases without HTTP: the server's own runner and scheduler in one process, stepped by hand.

    python -m pensieve.bench.micro.served_bare CASE FOLDER SIZES.json REPORT.json

`gpu_served` starts this module, each case in a process of its own, so that nothing is warm but what `build`,
as in the server's start, has warmed up. All prompts are drawn anew and are really computed. The defaults of
SchedulerConfig apply. The prefix cache is emptied between the parts of a case.

* prefill: one prompt after the other, each alone. The first is the first that this process computes.
* decode: batches whose prompts have been computed just before.
* fleet: sessions of several turns, each turn queued when the answer before it has ended; twice.
* long: a long prompt alone, twice; then beside sessions that decode, twice.
"""

import json
import statistics
import sys
import time
from collections import abc
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...scheduler.sequence import Sequence
from ..dialects import TokenUsage
from ..fleet import PlayedTrace, Record
from ..report import table
from .case_report import CaseReport, fleet_figures, long_figures, reported
from .served_engine import ServedEngine, describe_kinds, describe_shapes, num_new_shapes
from .served_sizes import DecodeLengths, sizes_from

WARM_STEPS = 8
"""Decode steps, after the last prompt, that are reported apart: they compile what later ones use."""

SETTLED_STEPS = 32
"""Decode steps before a long prompt joins."""


def play_prefill(engine: ServedEngine, report: CaseReport) -> None:
    """Compute prompts one after the other."""
    rows, rates, sizes = [], [], engine.sizes
    for number in range(1, sizes.prompts + 1):
        begin = len(engine.steps)
        sequence, elapsed_s = first_token(engine, engine.draw(sizes.prompt))
        steps = engine.steps[begin:]
        rates.append(sizes.prompt / elapsed_s)
        slices = [len(chunk.tokens) for step in steps for chunk in step.plan.prefill]
        sliced = [str(len(slices)), f"{min(slices)} to {max(slices)}", str(num_new_shapes(steps))]
        rows.append([str(number), f"{elapsed_s:.3f}", f"{rates[-1]:.0f}", *sliced])
        engine.end([sequence])
    report.figures["first prompt: tokens/s"] = rates[0]
    report.figures["later prompts: tokens/s"] = statistics.median(rates[1:] or rates)
    report.say(table(["prompt", "TTFT s", "tokens/s", "slices", "tokens a slice", "new shapes"], rows))
    report.say(describe_shapes(engine.steps))


def play_decode(engine: ServedEngine, report: CaseReport) -> None:
    """Compute each batch's prompts, then time its decode steps."""
    rows = []
    for case in engine.sizes.decode:
        sequences, prefill_s = decoding(engine, case)
        begin = len(engine.steps)
        while len(engine.steps) < begin + WARM_STEPS + engine.sizes.decode_steps:
            engine.step()
        steps = engine.steps[begin:]
        assert all(len(step.plan.decode) == len(sequences) for step in steps)
        times = [1e3 * step.seconds for step in steps[WARM_STEPS:]]
        first = max(1e3 * step.seconds for step in steps[:WARM_STEPS])
        median = report.figures[f"{case.name}: ms"] = statistics.median(times)
        context = sum(row.position + 1 for row in steps[-1].plan.decode)
        spread = f"{min(times):.2f} to {max(times):.2f}"
        rows.append([case.name, f"{median:.2f}", spread, f"{first:.1f}", f"{prefill_s:.2f}", str(context)])
        engine.end(sequences)
        print(f"  {case.name}: {median:.2f} ms", flush=True)
    head = ["decode batch", "median ms", "range ms", f"max of the {WARM_STEPS} before"]
    report.say(table([*head, "prompts' s", "tokens read, all rows"], rows))
    report.say(describe_shapes(engine.steps))


def decoding(engine: ServedEngine, case: DecodeLengths) -> tuple[list[Sequence], float]:
    """Queue a batch and step until all its prompts are computed; return it and the seconds that took."""
    shared, started_s = engine.draw(case.shared), time.perf_counter()
    sequences = [engine.add(shared + engine.draw(own), engine.served.max_context) for own in case.own]
    for sequence in sequences:
        engine.step_until_token(sequence)
    while engine.has_queued_slices:
        engine.step()
    return sequences, time.perf_counter() - started_s


def play_fleet(engine: ServedEngine, report: CaseReport) -> None:
    """Play the fleet twice, the second time with other prompts."""
    for name in ("first run", "second run"):
        begin = len(engine.steps)
        figures, text = fleet_figures(name, BareFleet(engine).play())
        report.figures |= figures
        steps = engine.steps[begin:]
        report.say(f"{name}:\n{text}\n{describe_shapes(steps)}\n{describe_kinds(steps)}\n")
        engine.end([])


class BareFleet:
    """Sessions whose next turn is queued when the answer before it has ended."""

    def __init__(self, engine: ServedEngine) -> None:
        self._engine = engine
        self._sizes = engine.sizes
        self._records: list[Record] = []
        self._running: dict[int, tuple[Record, Sequence, float]] = {}
        self._started_s = 0.0

    def play(self) -> PlayedTrace:
        """Play all sessions to their end."""
        shared = self._engine.draw(self._sizes.shared)
        self._started_s = time.perf_counter()
        for session in range(self._sizes.sessions):
            self._send(Record(session, 1, "main", 0.0, None), shared)
        while self._running:
            for progress in self._engine.step().progress:
                if progress.sequence.finish_reason is not None:
                    self._ended(*self._running.pop(progress.sequence.seq_id))
        wall_s = max(record.start_s + record.end_s for record in self._records)
        return PlayedTrace(sorted(self._records, key=lambda record: record.start_s), wall_s)

    def _send(self, record: Record, history: list[int]) -> None:
        prompt = history + self._engine.draw(self._sizes.new)
        sent_s = time.perf_counter()
        record.start_s = sent_s - self._started_s
        sequence = self._engine.add(prompt, self._sizes.answer)
        self._running[sequence.seq_id] = record, sequence, sent_s

    def _ended(self, record: Record, sequence: Sequence, sent_s: float) -> None:
        record.end_s = time.perf_counter() - sent_s
        record.delta_s = [at_s - sent_s for at_s in self._engine.times[sequence.seq_id]]
        prompt, cached = sequence.num_prompt_tokens, sequence.num_cached_tokens
        record.usage = TokenUsage(prompt, cached, len(record.delta_s))
        record.outcome = "done"
        self._records.append(record)
        if record.turn < self._sizes.turns:
            self._send(Record(record.session, record.turn + 1, "main", 0.0, prompt), sequence.tokens)


def play_long(engine: ServedEngine, report: CaseReport) -> None:
    """Compute a long prompt alone, then beside sessions that decode."""
    sizes, alone = engine.sizes, []
    # Drawn first: while sessions decode, nothing else must keep the engine waiting.
    prompts = [engine.draw(sizes.long) for _ in range(4)]
    for prompt in prompts[:2]:
        sequence, ttft_s = first_token(engine, prompt)
        alone.append(ttft_s)
        engine.end([sequence])
    batch = DecodeLengths(0, (sizes.beside_context,) * sizes.beside)
    sequences, _ = decoding(engine, batch)
    for name, prompt in zip(("beside, first", "beside, second"), prompts[2:], strict=True):
        for _ in range(SETTLED_STEPS):
            engine.step()
        times = [engine.times[sequence.seq_id] for sequence in sequences]
        marks = [len(own) - 1 for own in times]
        begin = len(engine.steps)
        _, ttft_s = first_token(engine, prompt)
        recent = [own[mark:] for own, mark in zip(times, marks, strict=True)]
        gaps = [later - earlier for own in recent for earlier, later in pairwise(own)]
        long_figures(report, name, alone, ttft_s, gaps)
        report.say(describe_shapes(engine.steps[begin:]))
    engine.end(sequences)


def first_token(engine: ServedEngine, prompt: list[int]) -> tuple[Sequence, float]:
    """Queue a prompt and step until its first token; return its sequence and the time to the token."""
    started_s = time.perf_counter()
    sequence = engine.add(prompt, 1)
    return sequence, engine.step_until_token(sequence) - started_s


CASES: dict[str, Any] = {
    "prefill": play_prefill,
    "decode": play_decode,
    "fleet": play_fleet,
    "long": play_long,
}


def main(arguments: abc.Sequence[str] | None = None) -> None:
    """Play one case and write its report, also when the case fails or is stopped."""
    case, folder, sizes_file, report_file = arguments or sys.argv[1:]
    sizes = sizes_from(json.loads(Path(sizes_file).read_text(encoding="utf-8")))
    with reported(case, Path(report_file)) as report:
        engine = ServedEngine(Path(folder), sizes)
        report.figures["build s"] = engine.build_s
        served = engine.served
        report.say(f"built in {engine.build_s:.1f} s: {served.device}, attends with {served.attention}")
        report.say(f"scheduler: {engine.scheduler.config}")
        CASES[case](engine, report)


if __name__ == "__main__":
    main()
