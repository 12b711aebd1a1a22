"""A played trace as text for people, and with its conditions as JSON for programs."""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections import abc
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from .fairness import CrowdCost
from .fleet import PlayedTrace, Record
from .summary import Percentiles, Summary, cache_state, summarise

PACKAGES = ("pensieve", "mlx", "mlx-lm", "numpy")


def conditions() -> dict[str, Any]:
    """Return the conditions of the figures: command, code, machine and versions."""
    arguments = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(arguments),
        "commit": commit(),
        "machine": f"{platform.system()} {platform.machine()}, {processor()}, {os.cpu_count()} cores",
        "memory_gb": memory_gb(),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := installed_version(name))},
    }


def commit() -> str | None:
    """Return the code's commit, marked "-dirty" when files differ from it; None outside of a repository."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def processor() -> str:
    """Return the processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"


def memory_gb() -> float:
    """Return the machine's memory in GB of 10^9 bytes."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)


def installed_version(name: str) -> str | None:
    """Return a package's version, or None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def report(run: PlayedTrace, settings: dict[str, Any]) -> dict[str, Any]:
    """Return a played trace with its conditions, ready for JSON. settings: the configs that made it."""
    return {
        "conditions": conditions(),
        "settings": settings,
        "device_ms": run.device_ms,
        "summary": asdict(summarise(run)),
        "requests": [_request(record) for record in run.records],
    }


def _request(record: Record) -> dict[str, Any]:
    fields = asdict(record) | {"cache": cache_state(record)}
    fields |= {"first_s": record.first_s, "turn_s": record.turn_s}
    fields["delta_s"] = [round(seconds, 5) for seconds in record.delta_s]
    return fields


def write_json(path: Path, value: object) -> None:
    """Write a file of indented JSON."""
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def describe(summary: Summary) -> str:
    """Return the figures as a few lines and a table of times."""
    rows = [("time to first token", summary.ttft_s)]
    rows += [(f"  turn {turn}", times) for turn, times in summary.ttft_by_turn_s.items()]
    rows += [(f"  {state}", times) for state, times in summary.ttft_by_cache_s.items()]
    rows += [("whole turn", summary.turn_s)]
    rows += [(f"  turn {turn}", times) for turn, times in summary.turn_by_number_s.items()]
    rows += [("between tokens", summary.inter_token_s), ("end to end", summary.end_to_end_s)]
    lines = [
        f"{summary.requests} requests in {summary.wall_s:.2f} s: {summary.done} done, "
        f"{summary.cancelled} cancelled, {summary.errors} errors",
        f"{summary.output_tokens} output tokens in {summary.deltas} pieces, "
        f"{summary.output_tokens_per_s:.1f} a second",
        f"{summary.prompt_tokens} prompt tokens, {summary.cached_tokens} of them from the cache",
        f"fairness between sessions (Jain) {summary.fairness:.3f} of tokens/s, "
        f"{summary.turn_fairness:.3f} of mean turn times"
        + (f", {summary.device_fairness:.3f} of device time" if summary.device_fairness is not None else ""),
        *_describe_waits(summary),
        "",
        table(["seconds", "count", "mean", "p50", "p95", "p99", "max"], [_row(*row) for row in rows]),
    ]
    lines += [f"{count} x {text}" for text, count in summary.error_texts.items()]
    return "\n".join(lines)


def _describe_waits(summary: Summary) -> list[str]:
    found = summary.waits
    if found is None:
        return []
    return [
        f"longest time without a token {seconds(found.longest_s)} s (session {found.session}), "
        f"{found.starvation:.1f} times the median of {seconds(found.median_s)} s"
    ]


def describe_crowd(cost: CrowdCost) -> str:
    """Return what one session's subagents cost the other sessions, as a line."""
    return (
        f"{cost.subagents} subagents of session 1: the others' turns take {seconds(cost.mean_with_s)} s in "
        f"place of {seconds(cost.mean_without_s)} s ({cost.ratio:.2f} times as long), their longest time "
        f"without a token {seconds(cost.longest_wait_with_s)} s in place of "
        f"{seconds(cost.longest_wait_without_s)} s"
    )


def describe_settings(*configs: Any) -> str:
    """Return the conditions of a played trace: flags that differ from the defaults, and what was warmed up.

    configs: dataclasses of flags.
    """
    given = [
        f"--{field.name.replace('_', '-')} {getattr(config, field.name)}"
        for config in configs
        for field in fields(config)
        if field.name != "api_key" and getattr(config, field.name) != field.default
    ]
    flags = " ".join(given) or "all at their defaults"
    return f"flags: {flags}\nwarmed up by the bench: nothing; what the server has done before is not known"


def _row(name: str, times: Percentiles) -> list[str]:
    values = (times.mean, times.p50, times.p95, times.p99, times.max)
    return [name, str(times.count), *(seconds(value) for value in values)]


def seconds(value: float | None) -> str:
    """Return seconds with about three significant digits, or "-" for None."""
    if value is None:
        return "-"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.4f}"


def table(head: abc.Sequence[str], rows: abc.Sequence[abc.Sequence[str]]) -> str:
    """Return rows of text with columns of equal width, the first one aligned left, the others right."""
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = []
    for row in cells:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *numbers]).rstrip())
    return "\n".join(lines)
