"""Reads calls in a format that only mlx-lm's parser can read, and only when they are whole."""

import ast
import json
from collections import abc
from dataclasses import replace
from typing import Any

from ...protocols import ToolParser
from ..json_text import is_json
from ..output_events import OutputEvent
from .call_reader import BodyResult, ParseResult, tool_names
from .json_calls import JsonCalls
from .json_reader import JsonReader
from .parsed_calls import call_entries, call_events


class WholeCalls:
    """Returns the events of all calls at the end of the body."""

    def __init__(self, parser: ToolParser, tools: abc.Sequence[dict[str, Any]], has_end: bool) -> None:
        """has_end: the format has an end tag; a body without it was cut off."""
        self._parser = parser
        self._has_end = has_end
        self._tools = tools
        self._names = tool_names(tools)
        self._texts: list[str] = []

    def add(self, text: str) -> list[OutputEvent]:
        """Keep the text for the end."""
        self._texts.append(text)
        return []

    def lookahead(self) -> JsonReader | None:
        """Return None: an end tag always ends the body."""
        return None

    def end(self, complete: bool) -> BodyResult:
        """Parse the body, with mlx-lm's parser or else as JSON."""
        text = "".join(self._texts)
        length = 0 if complete or self._has_end else _list_length(text)
        if length:
            return BodyResult(
                "ok", call_events(self._parser(text[:length], self._tools)), unread=text[length:]
            )
        if not complete and (self._has_end or _is_broken_list(text)):
            # mlx-lm's parsers would make a call of the part that has come.
            return BodyResult("failed", text=text)
        try:
            return BodyResult("ok", call_events(self._parser(text, self._tools)))
        except Exception:
            # mlx-lm's parsers raise exceptions of any type for text that is no call.
            return self._end_as_json(text) if complete else BodyResult("failed", text=text)

    def _end_as_json(self, text: str) -> BodyResult:
        """Read the body as JSON, which some models write instead of their own format."""
        reader = JsonCalls(self._names)
        events = reader.add(text)
        end = reader.end(complete=True)
        result: ParseResult = "failed" if end.result == "failed" else "repaired"
        return replace(end, events=[*events, *end.events], result=result)


def _list_length(text: str) -> int:
    """Return the length of a list of JSON calls with which a text begins; 0 where other text does."""
    start = len(text) - len(text.lstrip())
    try:
        listed, end = json.JSONDecoder().raw_decode(text, start)
        return end if isinstance(listed, list) and call_entries(listed) else 0
    except (ValueError, TypeError, RecursionError):
        return 0


def _is_broken_list(text: str) -> bool:
    """Whether a text begins as a list, of JSON or of calls in Python's syntax, that is not complete."""
    text = text.strip()
    if not text.startswith("[") or is_json(text):
        return False
    try:
        ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    return False
