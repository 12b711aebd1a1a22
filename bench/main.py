"""`pensieve bench`: plays a fleet against a running server and reports."""

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path

from .. import PensieveError
from .config import BenchConfig, TraceConfig
from .fleet import PlayedTrace, play
from .plot import plot
from .progress import ProgressBar
from .report import describe, describe_settings, report, write_json
from .summary import summarise
from .trace import make_trace


class BenchFailed(PensieveError):
    """No request was answered."""


def bench(trace_config: TraceConfig, config: BenchConfig) -> None:
    """Play the fleet, print the figures and write the files that `config` names. Raises BenchFailed."""
    run = play_trace(trace_config, config, "fleet")
    summary = summarise(run)
    has_failed = summary.errors == summary.requests
    if not has_failed:
        print(f"{describe(summary)}\n\n{describe_settings(trace_config, config)}")
    if config.json is not None:
        settings = {"trace": asdict(trace_config), "bench": asdict(config) | {"api_key": None}}
        write_json(Path(config.json), report(run, settings))
    if config.plot is not None:
        Path(config.plot).write_text(plot(run, f"{config.model} at {config.url}"), encoding="utf-8")
    if has_failed:
        raise BenchFailed(f"every request failed: {next(iter(summary.error_texts))}")


def play_trace(trace_config: TraceConfig, config: BenchConfig, name: str) -> PlayedTrace:
    """Play a trace with a progress bar."""
    trace = make_trace(trace_config)
    progress = ProgressBar(name, trace.num_requests, sys.stderr)
    try:
        return asyncio.run(play(trace, config, progress))
    finally:
        progress.close()
