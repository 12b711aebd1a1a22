"""What one run of a served case found, with HTTP or without, and the figures that both report."""

import json
import signal
import statistics
from collections import abc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from ..fleet import PlayedTrace
from ..report import describe, seconds, table
from ..summary import percentile, summarise

STOPPED = 143
"""Exit status of a run that SIGTERM has stopped, as shells count it."""


@dataclass
class CaseReport:
    """What one run of a case found. Figures are seconds unless their names say otherwise."""

    case: str
    figures: dict[str, float] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        """Keep a line of text, and print it at once."""
        self.text.append(line)
        print(line, flush=True)

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


@contextmanager
def reported(case: str, path: Path) -> Iterator[CaseReport]:
    """Give the block a report, and write it in the end, also where the block fails or SIGTERM comes."""
    report = CaseReport(case)
    with left_on_sigterm():
        try:
            yield report
        finally:
            report.write(path)


@contextmanager
def left_on_sigterm() -> Iterator[None]:
    """Raise SystemExit in the block when SIGTERM comes, so that it puts away what it has made."""
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(*_: object) -> None:
    raise SystemExit(STOPPED)


def read_report(path: Path) -> CaseReport:
    """Read a report that `write` has written."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return CaseReport(**{known.name: values[known.name] for known in fields(CaseReport)})


def fleet_figures(name: str, run: PlayedTrace) -> tuple[dict[str, float], str]:
    """Return a fleet's figures, their names preceded by `name`, and its table of times."""
    summary = summarise(run)
    later = [record.first_s for record in run.records if record.turn > 1 and record.first_s is not None]
    found: dict[str, float | None] = {
        "wall s": summary.wall_s,
        **{f"TTFT p50 turn {turn} s": times.p50 for turn, times in summary.ttft_by_turn_s.items()},
        "TTFT p50 turns 2+ s": percentile(later, 0.5),
        "ITL p50 s": summary.inter_token_s.p50,
        "ITL p99 s": summary.inter_token_s.p99,
        "ITL max s": summary.inter_token_s.max,
        "turn p50 s": summary.turn_s.p50,
        "turn p95 s": summary.turn_s.p95,
        "turn mean s": summary.turn_s.mean,
        "Jain of turn times": summary.turn_fairness,
        "errors": summary.errors,
    }
    figures = {f"{name}: {key}": value for key, value in found.items() if value is not None}
    return figures, describe(summary)


def medians(reports: abc.Sequence[CaseReport]) -> str:
    """Return a table of all runs' figures: median, range and number of runs."""
    values: dict[str, list[float]] = {}
    for report in reports:
        for name, value in report.figures.items():
            values.setdefault(f"{report.case} | {name}", []).append(value)
    rows = [
        [name, seconds(statistics.median(own)), f"{seconds(min(own))} to {seconds(max(own))}", str(len(own))]
        for name, own in values.items()
    ]
    return table(["figure", "median", "range", "runs"], rows)


def long_figures(
    report: CaseReport, name: str, alone: abc.Sequence[float], ttft_s: float, gaps: abc.Sequence[float]
) -> None:
    """Keep and print the figures of a long prompt that came beside sessions that decode.

    alone: times to the first token of such prompts alone. gaps: of the others' tokens until its first one.
    """
    report.figures["alone, first: TTFT s"], report.figures["alone, last: TTFT s"] = alone[0], alone[-1]
    report.figures[f"{name}: TTFT s"] = ttft_s
    report.figures[f"{name}: TTFT / last alone"] = ttft_s / alone[-1]
    report.figures[f"{name}: ITL p50 s"] = percentile(gaps, 0.5) or 0.0
    report.figures[f"{name}: ITL p99 s"] = percentile(gaps, 0.99) or 0.0
    told = ", ".join(f"{time_s:.3f}" for time_s in alone)
    report.say(f"{name}: TTFT {ttft_s:.3f} s (alone {told} s); between the others' tokens {spread_ms(gaps)}")


def spread_ms(times: abc.Sequence[float]) -> str:
    """Return times in seconds as milliseconds: median, 99th percentile and largest."""
    p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
    if p50 is None or p99 is None:
        return "none"
    return f"p50 {1e3 * p50:.1f}, p99 {1e3 * p99:.1f}, max {1e3 * max(times):.1f} ms ({len(times)})"
