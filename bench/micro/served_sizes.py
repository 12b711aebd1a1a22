"""Sizes of the served cases, and what the two ways to serve them, with HTTP and without, have in common."""

import json
import statistics
from collections import abc
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..fleet import PlayedTrace
from ..report import describe, seconds, table
from ..summary import percentile, summarise

TINY_PART = 100
"""What the lengths of the full sizes are divided by for a small model on a CPU."""


@dataclass(frozen=True)
class DecodeLengths:
    """A batch that decodes: the tokens that all its prompts share, and each prompt's own."""

    shared: int
    own: tuple[int, ...]

    @property
    def name(self) -> str:
        """Rows and tokens, as the table names the batch."""
        groups = {own: self.own.count(own) for own in self.own}
        parts = [
            f"{count} x ({self.shared} shared + {own})" if self.shared else f"{count} x {own}"
            for own, count in groups.items()
        ]
        return " + ".join(parts)


DECODE = (
    DecodeLengths(24_000, (2_000,) * 16),
    DecodeLengths(16_000, (4_000,) * 16),
    DecodeLengths(0, (64_000, *(4_000,) * 7)),
    DecodeLengths(0, (4_000,) * 8),
    DecodeLengths(0, (20_000,)),
    DecodeLengths(0, (20_000,) * 16),
)


@dataclass(frozen=True)
class ServedSizes:
    """Sizes of all cases, in tokens but for numbers of sessions, turns, prompts and steps."""

    shape: str = "qwen3-4b"
    sessions: int = 16
    turns: int = 3
    shared: int = 24_000
    new: int = 2_000
    answer: int = 128
    prompt: int = 24_000
    prompts: int = 5
    long: int = 60_000
    beside: int = 15  # sessions that decode while the long prompt comes
    beside_context: int = 8_000
    decode_steps: int = 64
    decode: tuple[DecodeLengths, ...] = field(default=DECODE)


def tiny() -> ServedSizes:
    """Return sizes that a CPU plays in seconds, with the same structure."""
    full = ServedSizes()
    lengths = {
        name: getattr(full, name) // TINY_PART for name in ("shared", "prompt", "long", "beside_context")
    }
    decode = tuple(
        DecodeLengths(case.shared // TINY_PART, tuple(own // TINY_PART for own in case.own[:3]))
        for case in full.decode
    )
    few = {"sessions": 3, "turns": 2, "new": 40, "answer": 6, "prompts": 3, "beside": 3, "decode_steps": 4}
    return replace(full, shape="tiny", decode=decode, **lengths, **few)


def sizes_from(values: dict[str, Any]) -> ServedSizes:
    """Return sizes that `dataclasses.asdict` has made a dictionary of."""
    decode = tuple(DecodeLengths(case["shared"], tuple(case["own"])) for case in values["decode"])
    return ServedSizes(**values | {"decode": decode})


@dataclass
class CaseReport:
    """What one run of a case found. Figures are seconds unless their names say otherwise."""

    case: str
    figures: dict[str, float] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def say(self, line: str) -> None:
        """Keep a line of text, and print it at once."""
        self.text.append(line)
        print(line, flush=True)

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


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
