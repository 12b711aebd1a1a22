"""Reads the text between a call's tags, and decides whether an end tag in a JSON string ends the call.

A model must be able to write a file that mentions tags, such as this one: `</tool_call>` in a string is text.
But a model may also forget to close a string. So the text from such a tag on waits until the string is closed
and valid JSON follows it; if no valid JSON follows, the tag ended the call.
"""

from ..output_events import OutputEvent
from .call_reader import BodyResult, CallReader
from .json_reader import JsonError, JsonReader


class ToolCallBody:
    """The text after one start tag. Once the body `is_over`, `remainder` is the text after its end tag."""

    def __init__(self, reader: CallReader, end_tag: str) -> None:
        self.is_over = False
        self.remainder = ""
        self._reader = reader
        self._end_tag = end_tag
        self._lookahead: JsonReader | None = None  # reads the waiting text as if the tag were in a string
        self._num_tokens = 0  # tokens of the look-ahead at which the tag is known to be in a string
        self._waiting: list[str] = []  # text from an end tag in a string on

    def add(self, text: str) -> list[OutputEvent]:
        """Take text that holds no end tag."""
        if self._lookahead is None:
            return self._reader.add(text)
        self._waiting.append(text)
        try:
            for _ in self._lookahead.read(text):
                pass
        except JsonError:
            self.is_over = self._lookahead.num_tokens < self._num_tokens
        if self.is_over:
            self._end_at_tag()
        elif self._lookahead.num_tokens >= self._num_tokens:
            return self._go_on()
        return []

    def add_end_tag(self) -> list[OutputEvent]:
        """Take an end tag."""
        if self._lookahead is not None and self._lookahead.in_string:
            return self.add(self._end_tag)
        events = self._go_on()
        self._lookahead = self._reader.lookahead()
        if self._lookahead is None:
            self.is_over = True
        else:
            self._num_tokens = self._lookahead.num_tokens + 2
            events += self.add(self._end_tag)
        return events

    def end_answer(self) -> list[OutputEvent]:
        """Take the end of the answer. An end tag in a string that was never closed ends the body."""
        if self._lookahead is None or not self._lookahead.in_string:
            return self._go_on()
        self.is_over = True
        self._end_at_tag()
        return []

    def result(self) -> BodyResult:
        """Return the body's result. No text may be added afterwards."""
        return self._reader.end(complete=self.is_over)

    def _go_on(self) -> list[OutputEvent]:
        """Read the waiting text: its end tag is part of a string."""
        text, self._waiting, self._lookahead = "".join(self._waiting), [], None
        return self._reader.add(text) if text else []

    def _end_at_tag(self) -> None:
        """End the body at the waiting end tag; the text after the tag is the remainder."""
        self.remainder = "".join(self._waiting).removeprefix(self._end_tag)
