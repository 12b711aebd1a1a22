"""Calls in a format that only mlx-lm's parser can read, and only as a whole."""

import ast
from collections import abc
from dataclasses import replace
from typing import Any

from ...protocols import ToolParser
from ..output_events import OutputEvent
from .call_reader import ParseResult, Reading, is_json, tool_names, whole_calls
from .json_calls import JsonCalls
from .json_reader import JsonReader


class WholeCalls:
    """Shows calls at the end of their passage, as it knows nothing of their format."""

    def __init__(self, parser: ToolParser, tools: abc.Sequence[dict[str, Any]], has_end: bool = True) -> None:
        """has_end: the format has an end mark, without which a passage was cut off."""
        self._parser = parser
        self._has_end = has_end
        self._tools = tools
        self._names = tool_names(tools)
        self._texts: list[str] = []

    def add(self, text: str) -> list[OutputEvent]:
        self._texts.append(text)
        return []

    def scout(self) -> JsonReader | None:
        return None

    def end(self, complete: bool) -> Reading:
        text = "".join(self._texts)
        if not complete and (self._has_end or _is_broken_list(text)):
            # Parsers are generous: they would make a call of what had come by then.
            return Reading("failed", text=text)
        try:
            return Reading("ok", whole_calls(self._parser(text, self._tools)))
        except Exception:
            # mlx-lm's parsers raise whatever the text makes them stumble over.
            return self._end_as_json(text) if complete else Reading("failed", text=text)

    def _end_as_json(self, text: str) -> Reading:
        """Read a passage as JSON: some models fall back to it."""
        reader = JsonCalls(self._names)
        events = reader.add(text)
        reading = reader.end(complete=True)
        result: ParseResult = "failed" if reading.result == "failed" else "repaired"
        return replace(reading, events=[*events, *reading.events], result=result)


def _is_broken_list(text: str) -> bool:
    """Tell whether a text begins as a list, of JSON or of calls in Python's syntax, and is no whole one."""
    text = text.strip()
    if not text.startswith("[") or is_json(text):
        return False
    try:
        ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    return False
