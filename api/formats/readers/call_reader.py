"""The interface of all readers of tool calls: a reader takes the text between a call's tags as it comes.

Its events are sent to the client at once, so a reader returns none before it is certain: a call begins when
its name is known to be one of the request's tools. A call of any other name is deferred to the end of the
text between the tags.
"""

from collections import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ...protocols import ToolParser
from ..output_events import OutputEvent
from .json_reader import JsonReader

ParseResult = Literal["ok", "repaired", "failed"]


@dataclass(frozen=True, slots=True)
class BodyResult:
    """How the text between a call's tags ended.

    events: those that were not returned before. text: the part of the body that turned out to be no call.
    unread: the text after the last call, which the reader has not looked through.
    """

    result: ParseResult
    events: list[OutputEvent] = field(default_factory=list)
    text: str = ""
    unread: str = ""


class CallReader(Protocol):
    """Reads the text between one start tag and its end tag."""

    def add(self, text: str) -> list[OutputEvent]:
        """Take text and return the events that have become certain."""

    def lookahead(self) -> JsonReader | None:
        """Return a copy of the JSON reader if the text so far ends within a JSON string, else None."""

    def end(self, complete: bool) -> BodyResult:
        """End the body.

        complete: the end tag was seen. Only then are missing brackets put in: a call that the token limit
        cut off must not run with half of its arguments.
        """


MakeReader = Callable[[ToolParser, abc.Sequence[dict[str, Any]], bool], CallReader]
"""Makes a reader of mlx-lm's parser, the request's tools, and whether the format has an end tag."""


def tool_names(tools: abc.Sequence[dict[str, Any]]) -> frozenset[str]:
    """List the names of a request's tools."""
    return frozenset(tool["function"]["name"] for tool in tools)
