"""The text between a call's tags, and end tags that may be part of a string in it.

A file that mentions tags, such as this one, must be writable: `</tool_call>` in a string is text. But a model
may also forget to close a string. So the text from such a tag on waits until the string is closed and the
JSON goes on after it; where the JSON never goes on, the tag was the end.
"""

from ..output_events import OutputEvent
from .call_reader import BodyResult, CallReader
from .json_reader import JsonError, JsonReader


class ToolCallBody:
    """The text after one start tag. Once it `is_over`, `remainder` is text after the end tag."""

    def __init__(self, reader: CallReader, end_tag: str) -> None:
        self.is_over = False
        self.remainder = ""
        self._reader = reader
        self._end_tag = end_tag
        self._lookahead: JsonReader | None = None  # reads on after an end tag in a string
        self._num_tokens = 0  # that the look-ahead has read once the string is closed and the JSON goes on
        self._waiting: list[str] = []  # text from that tag on

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
        """Take the end of the answer, which ends the body at an end tag in a string that was never closed."""
        if self._lookahead is None or not self._lookahead.in_string:
            return self._go_on()
        self.is_over = True
        self._end_at_tag()
        return []

    def result(self) -> BodyResult:
        """Return how the body ended. No text may follow."""
        return self._reader.end(complete=self.is_over)

    def _go_on(self) -> list[OutputEvent]:
        """Take the end tag that was waiting for a part of a string."""
        text, self._waiting, self._lookahead = "".join(self._waiting), [], None
        return self._reader.add(text) if text else []

    def _end_at_tag(self) -> None:
        """Take the end tag that was waiting for the end of the body."""
        self.remainder = "".join(self._waiting).removeprefix(self._end_tag)
