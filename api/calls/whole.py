"""Calls in a format that only mlx-lm's parser can read, and only as a whole."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..output.pieces import Piece
from ..protocols import ToolParser
from .json_calls import JsonCalls
from .json_reader import JsonReader
from .reader import ParseResult, Reading, tool_names, whole_calls


class WholeCalls:
    """Shows calls at the end of their passage, as it knows nothing of their format."""

    def __init__(self, parser: ToolParser, tools: Sequence[dict[str, Any]]) -> None:
        self._parser = parser
        self._tools = tools
        self._names = tool_names(tools)
        self._texts: list[str] = []

    def add(self, text: str) -> list[Piece]:
        self._texts.append(text)
        return []

    def scout(self) -> JsonReader | None:
        return None

    def end(self, complete: bool) -> Reading:
        text = "".join(self._texts)
        try:
            return Reading("ok", whole_calls(self._parser(text, self._tools)))
        except Exception:
            # mlx-lm's parsers raise whatever the text makes them stumble over.
            return self._end_as_json(text) if complete else Reading("failed", text=text)

    def _end_as_json(self, text: str) -> Reading:
        """Read a passage as JSON: some models fall back to it."""
        reader = JsonCalls(self._names)
        pieces = reader.add(text)
        reading = reader.end(complete=True)
        result: ParseResult = "failed" if reading.result == "failed" else "repaired"
        return replace(reading, pieces=[*pieces, *reading.pieces], result=result)
