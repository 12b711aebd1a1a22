"""What all readers of tool calls share: a reader takes the text between a call's marks as it comes.

Its pieces are shown to the client at once, so that none is given before it is certain: a call begins when its
name is known to be one of the request's tools. A call of any other name waits for the end of its passage.
"""

import json
import re
from collections import abc
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ..output_events import ArgumentsDelta, OutputEvent, ToolCallEnd, ToolCallStart, unparsed
from .json_reader import JsonReader

ParseResult = Literal["ok", "repaired", "failed"]

NAME = re.compile(r'"name"\s*:\s*"([^"\\]+)"')


@dataclass(frozen=True, slots=True)
class Reading:
    """How a marked passage ended.

    text: what of it is no call after all. rest: what stands behind the last call and was not looked through.
    """

    result: ParseResult
    events: list[OutputEvent] = field(default_factory=list)
    text: str = ""
    rest: str = ""


class CallReader(Protocol):
    """Reads one marked passage."""

    def add(self, text: str) -> list[OutputEvent]:
        """Take text and return the pieces that have become certain."""

    def scout(self) -> JsonReader | None:
        """Where the text stops within a string of JSON, make a reader that can look ahead; else None."""

    def end(self, complete: bool) -> Reading:
        """End the passage.

        complete: its end mark was seen. Only then are missing brackets put in: a call that the token limit
        cut off must not run with half of its arguments.
        """


class CallWriter:
    """Makes pieces of what is read of calls, one call after another."""

    def __init__(self, names: Collection[str]) -> None:
        self.is_open = False  # a call has a name and no end
        self.has_shown = False  # a call has been certain
        self._names = names
        self._fragments: list[str] = []  # of the call's arguments; they may come before its name
        self._certain: list[OutputEvent] = []
        self._later: list[OutputEvent] = []  # a call of an unknown tool, and all that follows it

    @property
    def is_shown(self) -> bool:
        """Whether a call is open that the client has seen begin."""
        return self.is_open and not self._later

    @property
    def waits(self) -> bool:
        """Whether there are calls that are not certain before the passage ends well."""
        return bool(self._later)

    def start(self, name: str) -> None:
        """Begin a call."""
        self.is_open = True
        self._add(ToolCallStart(name), certain=name in self._names)
        self.has_shown |= not self._later
        if self._fragments:
            self._add(ArgumentsDelta("".join(self._fragments)))

    def write(self, fragment: str) -> None:
        """Add to the arguments of the call; they may come before its name."""
        self._fragments.append(fragment)
        if self.is_open:
            self._add(ArgumentsDelta(fragment))

    def end(self) -> None:
        """End a call; without arguments it has an empty object of them."""
        if not self._fragments:
            self.write("{}")
        self._end()

    def cut(self) -> None:
        """End a call that was cut off; the client must see that its JSON is not whole."""
        if not self._fragments:
            self.write("{")
        self._end()

    def break_off(self, rest: str, passage: str) -> None:
        """End a call whose JSON is broken, so that no client can take it for whole.

        rest: what stands behind the fragments. passage: all that was written of the call.
        """
        if not self._fragments:
            self.write(dump(unparsed(passage)))
        elif not is_json("".join(self._fragments) + rest):  # of numbers and depth, others may think otherwise
            self.write(rest)
        self._end()

    def take(self) -> list[OutputEvent]:
        """Return the pieces that are certain, with fragments joined."""
        events, self._certain = self._certain, []
        return join_fragments(events)

    def take_later(self) -> list[OutputEvent]:
        """Return the pieces that waited for the end of the passage."""
        events, self._later = self._later, []
        return join_fragments(events)

    def _end(self) -> None:
        self._add(ToolCallEnd())
        self.is_open = False
        self._fragments = []

    def _add(self, event: OutputEvent, certain: bool = True) -> None:
        (self._certain if certain and not self._later else self._later).append(event)


def tool_names(tools: abc.Sequence[dict[str, Any]]) -> frozenset[str]:
    """List the names of a request's tools."""
    return frozenset(tool["function"]["name"] for tool in tools)


def dump(value: object) -> str:
    """Write JSON the way chat templates do."""
    return json.dumps(value, ensure_ascii=False)


def is_json(text: str) -> bool:
    """Tell whether a generous reader takes a text for JSON."""
    try:
        json.loads(text)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


def clean(arguments: Any) -> Any:
    """Refuse values that JSON lacks, and replace lone surrogates, which UTF-8 lacks.

    Raises ValueError or TypeError.
    """
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    return json.loads(text.encode("utf-8", "replace"))


def call_entries(parsed: Any) -> list[tuple[str, dict[str, Any]]]:
    """List the names and arguments that a parser returned. Raises ValueError or TypeError."""
    entries = parsed if isinstance(parsed, list) else [parsed]
    if not entries:
        raise ValueError("no call")
    return [_entry(entry) for entry in entries]


def whole_calls(parsed: Any) -> list[OutputEvent]:
    """Make pieces of what a parser returned. Raises ValueError or TypeError when it is no call."""
    events: list[OutputEvent] = []
    for name, arguments in call_entries(parsed):
        events += [ToolCallStart(name), ArgumentsDelta(dump(arguments)), ToolCallEnd()]
    return events


def broken_call(text: str, names: Collection[str]) -> Reading:
    """Hand over a call that nobody can read, if it names a tool; else it is text."""
    name = NAME.search(text)
    if name is None or name[1] not in names:
        return Reading("failed", text=text)
    return Reading("failed", [ToolCallStart(name[1]), ArgumentsDelta(dump(unparsed(text))), ToolCallEnd()])


def join_fragments(events: abc.Sequence[OutputEvent]) -> list[OutputEvent]:
    """Join the fragments that follow one another."""
    joined: list[OutputEvent] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, ArgumentsDelta) and isinstance(last, ArgumentsDelta):
            joined[-1] = ArgumentsDelta(last.json + event.json)
        else:
            joined.append(event)
    return joined


def _entry(entry: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise ValueError("a call needs a name")
    arguments = entry.get("arguments", entry.get("parameters", entry.get("input", {})))
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError("arguments must be an object")
    return entry["name"], clean(arguments)
