"""Calls whose name stands in front of the JSON of their arguments, as Mistral and Kimi K2 write them."""

import re
from collections import abc
from typing import Any

from ...protocols import ToolParser
from ..output_events import OutputEvent
from .call_reader import Reading, tool_names
from .json_calls import TokenReader
from .json_reader import JsonError, JsonReader, Token
from .whole_calls import WholeCalls

MAX_HEAD = 300


class HeadedCalls(TokenReader):
    """Calls as a head that names the tool, then a JSON object; what has no such head is read at its end."""

    def __init__(
        self, parser: ToolParser, tools: abc.Sequence[dict[str, Any]], has_end: bool, head: re.Pattern[str]
    ) -> None:
        """head: matches a head, in at most MAX_HEAD characters; its first group is the name."""
        super().__init__(tool_names(tools))
        self._head = head
        self._whole = WholeCalls(parser, tools, has_end)
        self._is_list: bool | None = None  # of JSON calls, as older models write; None before it has begun

    def add(self, text: str) -> list[OutputEvent]:
        self._whole.add(text)
        return super().add(text)

    def end(self, complete: bool) -> Reading:
        if not self._num_calls and not self._writer.is_open:
            return self._whole.end(complete)
        return super().end(complete)

    def _begin(self) -> bool:
        if self._is_list is None and (start := self._unread.lstrip()):
            self._is_list = start.startswith("[")
        if self._is_list:
            return False  # a string in it may speak of heads
        match = self._head.search(self._unread)
        if match is None:
            self._unread = self._unread[-MAX_HEAD:]
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
