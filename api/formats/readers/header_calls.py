"""Reads calls that have a header with the tool's name before the JSON of the arguments."""

import re
from collections import abc
from typing import Any

from ...protocols import ToolParser
from ..output_events import OutputEvent
from .call_reader import BodyResult, tool_names
from .json_reader import JsonError, JsonReader, Token
from .streamed_json_calls import StreamedJsonCalls
from .whole_calls import WholeCalls

MAX_HEADER = 300  # characters


class HeaderCalls(StreamedJsonCalls):
    """Reads a header that names the tool, then a JSON object. A body without headers is parsed at its end."""

    def __init__(
        self, header: re.Pattern[str], parser: ToolParser, tools: abc.Sequence[dict[str, Any]], has_end: bool
    ) -> None:
        """header: matches a header, in at most MAX_HEADER characters; its first group is the tool's name."""
        super().__init__(tool_names(tools))
        self._header = header
        self._whole = WholeCalls(parser, tools, has_end)
        self._is_list: bool | None = (
            None  # the body is a list of JSON calls, as of older models; None at first
        )

    def add(self, text: str) -> list[OutputEvent]:
        """Take text and return the events that have become certain."""
        self._whole.add(text)
        return super().add(text)

    def end(self, complete: bool) -> BodyResult:
        """End the body; without any header, mlx-lm's parser reads it."""
        if not self._num_calls and not self._writer.is_open:
            return self._whole.end(complete)
        return super().end(complete)

    def _begin(self) -> bool:
        if self._is_list is None and (start := self._unread.lstrip()):
            self._is_list = start.startswith("[")
        if self._is_list:
            return False  # a string in the list may hold text that looks like a header
        match = self._header.search(self._unread)
        if match is None:
            self._unread = self._unread[-MAX_HEADER:]
            return False
        self._unread = self._unread[match.end() :]
        self._writer.start(match[1])
        self._json = JsonReader()
        return True

    def _take(self, token: Token) -> None:
        if not token.depth and token.text not in "{}":
            raise JsonError("arguments that are no object")
        self._writer.write(token.written)
        if not token.depth and token.ends_value:
            self._end_call()
