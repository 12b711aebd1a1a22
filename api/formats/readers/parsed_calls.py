"""Makes events of the calls that mlx-lm's parsers return: one call or a list, with names and arguments."""

import json
import re
from collections.abc import Collection
from typing import Any

from ...lenient import unparsed_input
from ..json_text import dump
from ..output_events import ArgumentsDelta, OutputEvent, ToolCallEnd, ToolCallStart
from .call_reader import BodyResult

NAME = re.compile(r'"name"\s*:\s*"([^"\\]+)"')


def clean(arguments: Any) -> Any:
    """Return arguments with lone surrogates, which UTF-8 cannot hold, replaced by `?`.

    Raises ValueError or TypeError for values that JSON cannot hold.
    """
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    return json.loads(text.encode("utf-8", "replace"))


def call_entries(parsed: Any) -> list[tuple[str, dict[str, Any]]]:
    """List the names and arguments that a parser returned. Raises ValueError or TypeError."""
    entries = parsed if isinstance(parsed, list) else [parsed]
    if not entries:
        raise ValueError("no call")
    return [_entry(entry) for entry in entries]


def call_events(parsed: Any) -> list[OutputEvent]:
    """Make events of a parser's result. Raises ValueError or TypeError when the result is no call."""
    events: list[OutputEvent] = []
    for name, arguments in call_entries(parsed):
        events += [ToolCallStart(name), ArgumentsDelta(dump(arguments)), ToolCallEnd()]
    return events


def broken_call(text: str, names: Collection[str]) -> BodyResult:
    """Return a call that no parser can read: as a broken call if it names one of `names`, else as text."""
    name = NAME.search(text)
    if name is None or name[1] not in names:
        return BodyResult("failed", text=text)
    return BodyResult(
        "failed", [ToolCallStart(name[1]), ArgumentsDelta(dump(unparsed_input(text))), ToolCallEnd()]
    )


def _entry(entry: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise ValueError("a call needs a name")
    arguments = entry.get("arguments", entry.get("parameters", entry.get("input", {})))
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError("arguments must be an object")
    return entry["name"], clean(arguments)
