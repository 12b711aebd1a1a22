"""The interface of all readers of tool calls: a reader takes the text between a call's tags as it comes.

Events are sent to the client at once, so that a reader returns only certain ones: it begins a call when the
call's name is known to be one of the request's tools. Calls of other names are deferred to the end of the
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
    """The result of reading the text between a call's tags, the body.

    events: the events that were not returned before. text: the part of the body that is no call.
    unread: the text after the last call, which the reader has not read.
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

        complete: the end tag has come. Only then are missing brackets added: a call that the token limit has
        cut off must not run with half of its arguments.
        """


MakeReader = Callable[[ToolParser, abc.Sequence[dict[str, Any]], bool], CallReader]
"""Makes a reader of mlx-lm's parser, the request's tools, and whether the format has an end tag."""


def tool_names(tools: abc.Sequence[dict[str, Any]]) -> frozenset[str]:
    """List the names of a request's tools."""
    return frozenset(tool["function"]["name"] for tool in tools)
