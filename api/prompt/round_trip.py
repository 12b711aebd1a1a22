"""Reads calls that a chat template has rendered with the format in which the model's own calls are read."""

from collections import abc
from typing import Any

from ..formats import harmony
from ..formats.output_events import ArgumentsDelta, OutputEvent, ToolCallStart, call_input
from ..formats.readers.call_reader import tool_names
from ..formats.tag_follower import TagSet
from ..formats.tool_calls.tool_format import ToolFormat

ReadCall = tuple[str, dict[str, Any]]
"""A call's name and arguments."""


def read_calls(tool_format: ToolFormat, text: str, tools: abc.Sequence[dict[str, Any]]) -> list[ReadCall]:
    """Return the calls in a text. Text that holds no call is passed over."""
    calls: list[ReadCall] = []
    rest = harmony.rewritten(text) if tool_format.start == harmony.CALL_START else text
    starts = TagSet(tool_format.starts(tool_names(tools)))
    while (found := starts.find_first(rest)) is not None:
        place, start = found
        events, rest = _read_call(tool_format, start, rest[place + len(start) :], tools)
        calls += _calls_of(events)
    return calls


def _read_call(
    tool_format: ToolFormat, start: str, text: str, tools: abc.Sequence[dict[str, Any]]
) -> tuple[list[OutputEvent], str]:
    """Read the text after `start`; return the calls' events, and the text behind."""
    body, events = tool_format.open_body(start, tools)
    while not body.is_over:
        part, tag, text = text.partition(tool_format.end) if tool_format.end else (text, "", "")
        events += body.add(part)
        if not tag:
            break
        events += body.add_end_tag()
    events += body.end_answer()
    result = body.result()
    starts = TagSet(tool_format.starts(tool_names(tools)))
    unread = result.unread if starts.find_first(result.unread) else ""
    return [*events, *result.events], unread + body.remainder + text


def _calls_of(events: abc.Sequence[OutputEvent]) -> list[ReadCall]:
    names: list[str] = []
    arguments: list[list[str]] = []
    for event in events:
        if isinstance(event, ToolCallStart):
            names.append(event.name)
            arguments.append([])
        elif isinstance(event, ArgumentsDelta):
            arguments[-1].append(event.json)
    return [(name, call_input(parts)) for name, parts in zip(names, arguments, strict=True)]
