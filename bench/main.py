"""`pensieve bench`: plays a fleet against a running server and reports."""

import asyncio
import sys
from dataclasses import asdict, replace
from pathlib import Path

from .. import PensieveError
from .config import BenchConfig, ReplayConfig, TraceConfig
from .fairness import crowd_cost
from .fleet import PlayedTrace, play
from .plot import plot
from .progress import ProgressBar
from .recorded_trace import ReplayRules, make_recorded_trace
from .report import describe, describe_crowd, describe_settings, report, write_json
from .server_facts import device_times, token_chars
from .summary import summarise
from .trace import Trace, make_trace, marked
from .trace_file import read_trace_file


class BenchFailed(PensieveError):
    """No request was answered."""


def bench(trace_config: TraceConfig, replay: ReplayConfig, config: BenchConfig) -> None:
    """Play the fleet, print the figures and write the files that `config` names.

    Raises BenchFailed, and TraceFileError for a file that is no trace.
    """
    settings = [asdict(given) for given in (trace_config, replay, config)]
    found = {"trace": settings[0], "replay": settings[1], "bench": settings[2] | {"api_key": None}}
    if replay.trace is not None:
        run = play_with_bar(_recorded(replay, config), config, "trace")
        lines = list[str]()
    elif trace_config.crowd:
        run, lines = _play_twice(trace_config, config)
    else:
        run, lines = play_trace(trace_config, config, "fleet"), []
    summary = summarise(run)
    has_failed = summary.errors == summary.requests
    if not has_failed:
        shown = describe_settings(trace_config, replay, config)
        print("\n".join([describe(summary), *lines, "", shown]))
    if config.json is not None:
        write_json(Path(config.json), report(run, found))
    if config.plot is not None:
        Path(config.plot).write_text(plot(run, f"{config.model} at {config.url}"), encoding="utf-8")
    if has_failed:
        raise BenchFailed(f"every request failed: {next(iter(summary.error_texts))}")


def play_trace(trace_config: TraceConfig, config: BenchConfig, name: str) -> PlayedTrace:
    """Draw a trace and play it with a progress bar."""
    return play_with_bar(make_trace(trace_config), config, name)


def play_with_bar(trace: Trace, config: BenchConfig, name: str) -> PlayedTrace:
    """Play a trace with a progress bar."""
    progress = ProgressBar(name, trace.num_requests, sys.stderr)
    try:
        run = asyncio.run(play(trace, config, progress))
    finally:
        progress.close()
    return replace(run, device_ms=device_times(config, run.session_ids))


def _play_twice(trace_config: TraceConfig, config: BenchConfig) -> tuple[PlayedTrace, list[str]]:
    """Play a fleet without its crowd and with it, each time with a head that no server has cached.

    Returns the second run, and lines about what the crowd costs.
    """
    calm = marked(make_trace(replace(trace_config, crowd=0)), "without the crowd:")
    without = play_with_bar(calm, config, "without the crowd")
    run = play_with_bar(make_trace(trace_config), config, "with the crowd")
    cost = crowd_cost(without, run, trace_config.crowd)
    return run, [] if cost is None else ["", describe_crowd(cost)]


def _recorded(replay: ReplayConfig, config: BenchConfig) -> Trace:
    assert replay.trace is not None  # else there is nothing to read
    sessions = read_trace_file(Path(replay.trace))
    rules = ReplayRules(token_chars(config), replay.trace_scale, replay.gap_cap_s)
    return make_recorded_trace(sessions, rules)
