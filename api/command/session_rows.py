"""The rows in which `pensieve sessions` shows sessions and their agents."""

from collections import abc
from typing import Any

Row = dict[str, Any]
"""A session or an agent, as `GET /v1/sessions` describes it."""

HEADS = ("SESSION", "FOLDER", "STATE", "CONTEXT", "CACHED", "TOK/S", "WAITED", "DEVICE", "AGE")
LEFT = frozenset({"SESSION", "FOLDER", "KEY", "STATE"})
"""Columns of texts; those of numbers end at the right."""

ID_CHARS, NAME_CHARS, STATE_CHARS = 8, 24, 28
"""Characters that are shown of an id, of a folder or an agent, and of a state."""

MAX_DEPTH = 5
"""Levels of agents that are shown one below another."""


def table_lines(sessions: abc.Sequence[Row]) -> list[str]:
    """Return a line of heads, and one for each session and each of its agents that does something."""
    heads = [*HEADS[:2], "KEY", *HEADS[2:]] if any(session["key"] for session in sessions) else list(HEADS)
    rows = [heads]
    for session in sessions:
        rows += [[cells.get(head, "") for head in heads] for cells in _rows_of(session)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = [
        "  ".join(
            f"{cell:{'<' if head in LEFT else '>'}{width}}"
            for head, cell, width in zip(heads, row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    return lines if sessions else ["no session has sent a request"]


def _rows_of(session: Row) -> list[dict[str, str]]:
    """Return the cells of a session, and of its subagents that do something, by their columns' heads."""
    share = session["cached_share"]
    rows = [
        _cells(session)
        | {
            "SESSION": shown(session["id"], ID_CHARS),
            "FOLDER": shown(session["folder"] or "-", NAME_CHARS),
            "KEY": shown(session["key"], NAME_CHARS),
            "CACHED": "-" if share is None else f"{share:.0%}",
            "WAITED": f"{session['waited_s']:.1f} s",
            "DEVICE": f"{session['device_share']:.0%}",
            "AGE": _duration(session["age_s"]),
        }
    ]
    busy = {agent["id"]: agent for agent in session["agents"] if agent["id"] and agent["state"] != "idle"}
    for path in sorted(_path(name, busy) for name in busy):
        agent, indent = busy[path[-1]], "  " * (len(path) - 1)
        name = shown(f"{agent['type'] or 'agent'} {agent['id']}", NAME_CHARS)
        rows.append(_cells(agent) | {"SESSION": f"{indent}└ {name}"})
    return rows


def _path(name: str, shown: dict[str, Row]) -> list[str]:
    """Return the agents from the highest one that is shown down to an agent, by their names."""
    path = [name]
    while len(path) < MAX_DEPTH:
        parent = shown[path[-1]]["parent"]
        if parent not in shown or parent in path:  # a client may say that two agents have started one another
            break
        path.append(parent)
    return path[::-1]


def _cells(row: Row) -> dict[str, str]:
    rate = row["tokens_per_s"]
    return {
        "STATE": _state(row)[:STATE_CHARS],
        "CONTEXT": f"{row['context_tokens']:,}",
        "TOK/S": "-" if rate is None else f"{rate:.1f}",
    }


def _state(row: Row) -> str:
    match row["state"]:
        case "queued":
            return f"queued, {row['position']} before it"
        case "prefill":
            return f"prefill {row['computed']:,} of {row['prompt']:,}"
        case "tools" if row.get("tools"):
            return f"tools: {shown(', '.join(row['tools']), STATE_CHARS)}"
        case state:
            return str(state)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def shown(text: str, num_chars: int) -> str:
    """Return the beginning of a client's text, without what a terminal would take for a command."""
    return "".join(char if char.isprintable() else "?" for char in text[:num_chars])
