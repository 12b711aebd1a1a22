"""The summary of an answer that took several rounds, because the server has run tools in it."""

from collections import abc
from typing import Any

MAX_ROUNDS = 30
"""Rounds of one answer whose reports are kept."""

ROUND_FIELDS = ("outcome", "tokens", "times_ms", "cache")

Summary = dict[str, Any]


def summary_of_rounds(rounds: abc.Sequence[Summary], total_ms: float) -> Summary:
    """Return the summary of a whole answer: sums, and each round's own figures under `rounds`.

    rounds: their summaries, in order. total_ms: from the request's arrival to the last round's end, or now.
    """
    first, last = rounds[0], rounds[-1]
    times = _sums([found["times_ms"] for found in rounds]) | {"total": total_ms}
    return first | {
        "outcome": last["outcome"],
        "tokens": _sums([found["tokens"] for found in rounds]),
        "times_ms": times,
        "rounds": [{name: found[name] for name in ROUND_FIELDS} for found in rounds],
    }


def _sums(parts: abc.Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Add numbers by their names; what has not begun counts as nothing, and stays None if nothing has."""
    return {name: _sum([part[name] for part in parts]) for name in parts[0]}


def _sum(values: abc.Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), 3) if known else None
