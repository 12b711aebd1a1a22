"""`make bench`: Pensieve and its peers, one after the other, on the same model and the same trace; one table.

    python -m pensieve.bench.compare --repeat 3

Each server is started anew for each repetition, answers one short request, and then serves the fleet. With
--repeat the servers take turns, so that a busy spell of the machine does not hit one of them alone.
"""

import argparse
import json
import statistics
import sys
from collections import abc
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .config import TraceConfig
from .main import play_trace
from .plot import plot
from .random_model import write_model
from .random_weights import CONFIGS
from .report import conditions, report, seconds, table, write_json
from .servers import SERVERS, ServerFailed, ServerSpec, client, install, running
from .summary import Summary, summarise

CACHE = Path("~/.cache/pensieve-bench").expanduser()
BASELINE = "pensieve"

# The trace that the figures in README.md are of: no tools, as not every server's parser bears a random model.
TRACE = TraceConfig(tools=0)
WARMED_UP = "each server is new for each run, and answers one request of a few tokens before the fleet"
WARM_UP = TraceConfig(sessions=1, turns=1, system_chars=40, tools=0, turn_chars=40, output_tokens=2, seed=-1)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One server's figures for one run of the trace."""

    title: str
    summary: Summary
    peak_bytes: int
    cpu_s: float  # of the server while it served the fleet; other work on the machine does not count
    outputs_differ: int  # answers whose length is not the one asked for


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the table."""

    title: str
    value: Callable[[Measurement], float | None]
    has_ratio: bool = True  # whether less is better, and Pensieve's is compared with the best peer's


def first_token(turn: int, name: Literal["p50", "p95"]) -> Callable[[Measurement], float | None]:
    """Return the figure of a turn's time to the first token, of all sessions."""

    def value(measurement: Measurement) -> float | None:
        times = measurement.summary.ttft_by_turn_s.get(str(turn))
        return getattr(times, name) if times else None

    return value


def whole_turn(turn: int) -> Callable[[Measurement], float | None]:
    """Return the figure of a turn's mean time to the last token, of all sessions."""

    def value(measurement: Measurement) -> float | None:
        times = measurement.summary.turn_by_number_s.get(str(turn))
        return times.mean if times else None

    return value


def figures(turns: int) -> list[Figure]:
    """Return the table's lines for conversations of `turns` turns."""
    numbers = range(1, turns + 1)
    return [
        Figure("wall s", lambda m: m.summary.wall_s),
        *(Figure(f"TTFT {turn} s", first_token(turn, "p50")) for turn in numbers),
        *(Figure(f"TTFT {turn} p95 s", first_token(turn, "p95")) for turn in numbers),
        Figure("turn mean s", lambda m: m.summary.turn_s.mean),
        Figure("turn p50 s", lambda m: m.summary.turn_s.p50),
        Figure("turn p95 s", lambda m: m.summary.turn_s.p95),
        *(Figure(f"turn {turn} mean s", whole_turn(turn)) for turn in numbers),
        Figure("Jain of turn times", lambda m: m.summary.turn_fairness, has_ratio=False),
        Figure("ITL p50 s", lambda m: m.summary.inter_token_s.p50),
        Figure("ITL p99 s", lambda m: m.summary.inter_token_s.p99),
        Figure("CPU s", lambda m: m.cpu_s),
        Figure("peak GB", lambda m: m.peak_bytes / 1e9),
        Figure("tokens", lambda m: m.summary.output_tokens, has_ratio=False),
        Figure("pieces", lambda m: m.summary.deltas, has_ratio=False),
        Figure("errors", lambda m: m.summary.errors, has_ratio=False),
    ]


def measure(spec: ServerSpec, trace: TraceConfig, cache: Path, kind: str = "attention") -> Measurement:
    """Start a server, play the trace and stop the server; return the figures. Raises ServerFailed.

    kind: of the model, see `write_model`.
    """
    commands = install(spec, cache)
    model = write_model(cache / ("model" if kind == "attention" else f"{kind}-model"), kind)
    log = cache / "runs" / f"{spec.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    with running(spec, commands, model, log) as (server, url):
        config = client(spec, url, model)
        warm_up = summarise(play_trace(WARM_UP, config, "warm-up"))
        if warm_up.errors:
            raise ServerFailed(f"{warm_up.error_texts}; {server.last_words()}")
        before_s = server.cpu_s()
        run = play_trace(trace, config, spec.title)
        cpu_s = server.cpu_s() - before_s
        log.with_suffix(".svg").write_text(plot(run, spec.title), encoding="utf-8")
        write_json(log.with_suffix(".json"), report(run, {"trace": asdict(trace)}))
        differ = sum(record.num_output != trace.output_tokens for record in run.records)
        return Measurement(spec.title, summarise(run), server.peak_bytes, cpu_s, differ)


def compare(
    specs: abc.Sequence[ServerSpec], trace: TraceConfig, repeat: int, cache: Path, kind: str = "attention"
) -> dict[str, list[Measurement]]:
    """Measure all servers `repeat` times in turn. A server that fails is reported and left out then."""
    measurements: dict[str, list[Measurement]] = {spec.name: [] for spec in specs}
    failed: set[str] = set()
    for _ in range(repeat):
        for spec in specs:
            if spec.name in failed:
                continue
            try:
                measurements[spec.name].append(measure(spec, trace, cache, kind))
            except ServerFailed as error:
                failed.add(spec.name)
                say(f"{spec.title} left out: {error}")
            else:
                say(brief(measurements[spec.name][-1], trace.turns))
    return {name: runs for name, runs in measurements.items() if runs}


def brief(measurement: Measurement, turns: int) -> str:
    """Return a measurement as one line."""
    shown = [f"{figure.title} {show(figure.value(measurement))}" for figure in figures(turns)]
    return f"{measurement.title}: {', '.join(shown)}"


def describe(measurements: dict[str, list[Measurement]], turns: int) -> str:
    """Return the table: medians, with ranges of several runs, and Pensieve's share of the best peer's."""
    head = ["median (range)", *(runs[0].title for runs in measurements.values()), "pensieve / best peer"]
    rows = [
        [
            figure.title,
            *(cell(figure, runs) for runs in measurements.values()),
            show(ratio(figure, measurements)),
        ]
        for figure in figures(turns)
    ]
    return table(head, rows)


def cell(figure: Figure, runs: abc.Sequence[Measurement]) -> str:
    """Return a figure's median over a server's runs, with the range when the runs differ."""
    values = [value for run in runs if (value := figure.value(run)) is not None]
    if not values:
        return "-"
    middle = show(statistics.median(values))
    return middle if min(values) == max(values) else f"{middle} ({show(min(values))}-{show(max(values))})"


def ratio(figure: Figure, measurements: dict[str, list[Measurement]]) -> float | None:
    """Return Pensieve's median divided by the smallest median of a peer, or None where there is no ratio."""
    medians = {}
    for name, runs in measurements.items():
        values = [value for run in runs if (value := figure.value(run)) is not None]
        if values:
            medians[name] = statistics.median(values)
    own = medians.pop(BASELINE, None)
    if own is None or not medians or not figure.has_ratio:
        return None
    return own / min(medians.values())


def show(value: float | None) -> str:
    """Return a figure as text: whole numbers in full, seconds rounded."""
    return str(value) if isinstance(value, int) else seconds(value)


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def main(arguments: abc.Sequence[str] | None = None) -> int:
    """Compare and print; return 1 when Pensieve itself failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [spec.name for spec in SERVERS]
    parser.add_argument("--server", action="append", choices=names, help="may be repeated (default: all)")
    parser.add_argument("--model", choices=CONFIGS, default="attention", help="kind of the model's layers")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each server")
    parser.add_argument(
        "--trace", default="{}", help="JSON: fields of the trace that differ from the default"
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for environments, model and logs")
    parser.add_argument("--json", type=Path, help="file for all figures and their conditions")
    options = parser.parse_args(arguments)
    specs = [spec for spec in SERVERS if spec.name in (options.server or names)]
    trace = replace(TRACE, **json.loads(options.trace))
    flags = "each server's own defaults"
    started = conditions() | {"model": options.model, "warmed up": WARMED_UP, "flags": flags}
    measurements = compare(specs, trace, options.repeat, options.cache, options.model)
    say("\n" + describe(measurements, trace.turns))
    say("\n" + json.dumps(started, indent=1))
    if options.json:
        write_json(options.json, as_json(started, trace, measurements))
    return int(BASELINE in {spec.name for spec in specs} - measurements.keys())


def as_json(
    started: dict[str, Any], trace: TraceConfig, measurements: dict[str, list[Measurement]]
) -> dict[str, Any]:
    """Return all figures and their conditions, ready for JSON."""
    runs = {name: [asdict(run) for run in runs] for name, runs in measurements.items()}
    return {"conditions": started, "trace": asdict(trace), "servers": runs}


if __name__ == "__main__":
    sys.exit(main())
