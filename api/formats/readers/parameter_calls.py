"""Calls in formats that are not JSON, shown a parameter at a time.

mlx-lm's parsers say what a call is. But they strip texts and lose digits, so the values that they change
are taken from the passage.
"""

import json
import re
from collections import abc
from dataclasses import dataclass
from typing import Any

from ...protocols import ToolParser
from ..output_events import OutputEvent
from .call_reader import CallWriter, Reading, call_entries, clean, dump
from .whole_calls import WholeCalls

MAX_MARK = 300

KINDS = {"boolean": (bool,), "integer": (int,), "number": (int, float), "string": (str,)}
KINDS |= {"object": (dict,), "array": (list,), "null": (type(None),)}


@dataclass(frozen=True, slots=True)
class Members:
    """Where the calls of a format can be read.

    ends: matches the end of a call's name and of each parameter, in at most MAX_MARK characters.
    parts: matches the head of a call or else a parameter's key and value, and its close where it has one.
    closing: makes what stands before it a call that mlx-lm's parser reads.
    """

    ends: re.Pattern[str]
    parts: re.Pattern[str]
    closing: str = ""


class MemberCalls(WholeCalls):
    """Calls in a format of which mlx-lm's parser reads any beginning that ends with a parameter."""

    def __init__(self, parser: ToolParser, tools: abc.Sequence[dict[str, Any]], shape: Members) -> None:
        super().__init__(parser, tools)
        self._shape = shape
        self._schemas = {tool["function"]["name"]: _properties(tool["function"]) for tool in tools}
        self._writer = CallWriter(self._names)
        self._shown: list[dict[str, str]] = []  # each call's parameters, with their JSON
        self._tail = ""  # of the passage; the next mark may begin in it

    def add(self, text: str) -> list[OutputEvent]:
        self._texts.append(text)
        self._tail += text
        while match := self._shape.ends.search(self._tail):
            self._tail = self._tail[match.end() :]
            passage = "".join(self._texts)
            self._show(passage[: len(passage) - len(self._tail)] + self._shape.closing)
        self._tail = self._tail[-MAX_MARK:]
        return self._writer.take()

    def end(self, complete: bool) -> Reading:
        # Some of these parsers read half a call without complaint.
        if complete and not self._shown:
            return super().end(complete)
        if complete and not self._is_unclosed() and self._show("".join(self._texts)):
            self._end_call()
            return Reading("ok", [*self._writer.take(), *self._writer.take_later()])
        if self._writer.is_shown:
            self._writer.cut()
            return Reading("failed", self._writer.take())
        return Reading("failed", text="" if self._writer.has_shown else "".join(self._texts))

    def _show(self, passage: str) -> bool:
        """Show what is new in a passage; false when it holds no calls, or others than were shown."""
        try:
            calls = self._read(passage)
        except Exception:
            # mlx-lm's parsers raise whatever the text makes them stumble over.
            return False
        last = len(self._shown) - 1
        if last >= len(calls) or (last >= 0 and not self._shown[last].keys() <= calls[last][1].keys()):
            return False
        for index, (name, arguments) in enumerate(calls[max(last, 0) :], max(last, 0)):
            if index > last:
                self._start_call(name)
            self._show_members(self._shown[index], arguments)
        return True

    def _read(self, passage: str) -> list[tuple[str, dict[str, Any]]]:
        """Read the calls of a passage. Raises whatever the parser does."""
        calls = call_entries(self._parser(passage, self._tools))
        texts = self._value_texts(passage)
        if len(texts) != len(calls):
            return calls
        return [
            (name, self._exact(name, parsed, of)) for (name, parsed), of in zip(calls, texts, strict=True)
        ]

    def _value_texts(self, passage: str) -> list[dict[str, str]]:
        """List each call's values as they stand in the passage, by their keys."""
        calls: list[dict[str, str]] = []
        for part in self._shape.parts.finditer(passage):
            if part["key"] is None:
                calls.append({})
            elif calls and part["close"]:
                calls[-1][part["key"].strip()] = part["value"]
        return calls

    def _is_unclosed(self) -> bool:
        """Whether the passage has ended within a parameter."""
        parts = self._shape.parts.finditer("".join(self._texts))
        return any(part["key"] is not None and not part["close"] for part in parts)

    def _exact(self, name: str, parsed: dict[str, Any], texts: dict[str, str]) -> dict[str, Any]:
        """Put the values in that the parser has changed."""
        schemas = self._schemas.get(name, {})
        values = {key: _value(schemas.get(key), texts[key], parsed[key]) for key in parsed if key in texts}
        return {**parsed, **clean(values)}

    def _start_call(self, name: str) -> None:
        if self._writer.is_open:
            self._end_call()
        self._writer.start(name)
        self._shown.append({})

    def _end_call(self) -> None:
        if self._shown[-1]:
            self._writer.write("}")
        self._writer.end()

    def _show_members(self, shown: dict[str, str], arguments: dict[str, Any]) -> None:
        for key, value in arguments.items():
            text = dump(value)
            if shown.get(key) != text:  # of two members of one name, the last counts
                self._writer.write(f"{', ' if shown else '{'}{dump(key)}: {text}")
                shown[key] = text


def _properties(function: dict[str, Any]) -> dict[str, Any]:
    """List the schemas of a tool's parameters, as far as they are any."""
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    return properties if isinstance(properties, dict) else {}


def _value(schema: Any, text: str, parsed: Any) -> Any:
    """Choose between a value as it stands, read as JSON, and as the parser has read it."""
    kinds = schema.get("type") if isinstance(schema, dict) else None
    kinds = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else None
    if parsed in (text, text.strip()) and (kinds is None or "string" in kinds):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return parsed
    return value if kinds is None or any(_is_of(value, kind) for kind in kinds) else parsed


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of one of JSON Schema's kinds; true and false are integers to Python alone."""
    types = KINDS.get(kind, ()) if isinstance(kind, str) else ()
    return isinstance(value, types) and (kind == "boolean" or not isinstance(value, bool))
