"""An answer's output events as items of a response, and as the events that stream them. No I/O."""

from collections import abc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ...formats.output_events import (
    ArgumentsDelta,
    OutputEvent,
    ScoredToken,
    TextDelta,
    ThinkingDelta,
    ToolCallEnd,
    ToolCallStart,
)
from ..chunks import scores_of
from ..logprob_bodies import ChatLogprobs
from .client_tools import ClientTool
from .open_items import Event, OpenItem, OpenMessage, OpenSummary, OpenThoughts, Status, open_call


@dataclass(frozen=True, slots=True)
class OutputShape:
    """What a request says about the form of its answer's items."""

    tools: abc.Mapping[str, ClientTool] = field(default_factory=dict)  # by the model's name
    thoughts_as_summary: bool = False
    seals_thoughts: bool = False
    omits_thoughts: bool = False
    logprobs: ChatLogprobs | None = None


class OutputItems:
    """The items of one answer, complete as far as the events that were added go."""

    def __init__(self, shape: OutputShape) -> None:
        self.items: list[dict[str, Any]] = []
        self._shape = shape
        self._open: OpenItem | None = None
        self._opener: type[OutputEvent] | None = None  # the event that opened the open item
        self._scores: list[ScoredToken] = []  # of tokens whose text has not been added yet

    def add(self, events: Iterable[OutputEvent]) -> Iterator[Event]:
        """Take the answer's next output events; yield the stream's events for them."""
        events = list(events)
        self._scores += scores_of(events)
        for event in events:
            match event:
                case ThinkingDelta() if self._shape.omits_thoughts:
                    pass
                case TextDelta() | ThinkingDelta():
                    yield from self._add_text(event)
                case ToolCallStart():
                    yield from self.close()
                    yield from self._begin(event)
                case ArgumentsDelta() if self._open is not None:
                    yield from self._open.add(event.json, [])
                case ToolCallEnd():
                    yield from self.close()
                case _:
                    pass  # the scores were taken before

    def close(self, status: Status = "completed") -> Iterator[Event]:
        """Complete the open item, if one is open; yield the events that end it."""
        if self._open is None:
            return
        if self._opener is TextDelta and self._scores:
            yield from self._open.add("", self._logprobs())  # of tokens that had no text
        yield from self._open.end(status)
        self.items.append(self._open.item)
        self._open = self._opener = None

    def _add_text(self, event: TextDelta | ThinkingDelta) -> Iterator[Event]:
        """Yield a delta of text or thoughts, after the start of its item unless that item is open."""
        if self._opener is not type(event):
            yield from self.close()
            yield from self._begin(event)
        assert self._open is not None, "just begun"
        logprobs = self._logprobs() if isinstance(event, TextDelta) else []
        yield from self._open.add(event.text, logprobs)

    def _begin(self, event: TextDelta | ThinkingDelta | ToolCallStart) -> Iterator[Event]:
        self._open, self._opener = self._new_item(event), type(event)
        yield from self._open.start()

    def _new_item(self, event: TextDelta | ThinkingDelta | ToolCallStart) -> OpenItem:
        index, shape = len(self.items), self._shape
        match event:
            case TextDelta():
                return OpenMessage(index)
            case ThinkingDelta():
                kind = OpenSummary if shape.thoughts_as_summary else OpenThoughts
                return kind(index, shape.seals_thoughts)
            case ToolCallStart():
                return open_call(index, event, shape.tools.get(event.name))

    def _logprobs(self) -> list[Any]:
        """Return the log-probabilities of the tokens since the last call."""
        scores, self._scores = self._scores, []
        if self._shape.logprobs is None:
            return []
        entries: list[Any] = self._shape.logprobs.body(scores)["content"]
        return entries
