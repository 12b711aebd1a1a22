"""The passage between a call's marks, and end marks that may be a part of a string in it.

A file that speaks of marks, such as this one, must be writable: `</tool_call>` in a string is text. But a
model may also forget to close a string. So what follows such a mark waits until the string is closed and the
JSON goes on behind it; where it never does, the mark was the end after all.
"""

from ..output_events import OutputEvent
from .call_reader import CallReader, Reading
from .json_reader import JsonError, JsonReader


class Passage:
    """One passage. When it `is_over`, an end mark has ended it; `behind` is text that follows that mark."""

    def __init__(self, reader: CallReader, mark: str) -> None:
        self.is_over = False
        self.behind = ""
        self._reader = reader
        self._mark = mark
        self._scout: JsonReader | None = None  # looks ahead behind a mark in a string
        self._num_tokens = 0  # of the scout when the string is closed and the JSON goes on
        self._waiting: list[str] = []  # text since that mark

    def add(self, text: str) -> list[OutputEvent]:
        """Take text that holds no end mark."""
        if self._scout is None:
            return self._reader.add(text)
        self._waiting.append(text)
        try:
            for _ in self._scout.read(text):
                pass
        except JsonError:
            self.is_over = self._scout.num_tokens < self._num_tokens
        if self.is_over:
            self._turn_back()
        elif self._scout.num_tokens >= self._num_tokens:
            return self._go_on()
        return []

    def meet_mark(self) -> list[OutputEvent]:
        """Take an end mark."""
        if self._scout is not None and self._scout.in_string:
            return self.add(self._mark)
        events = self._go_on()
        self._scout = self._reader.scout()
        if self._scout is None:
            self.is_over = True
        else:
            self._num_tokens = self._scout.num_tokens + 2
            events += self.add(self._mark)
        return events

    def meet_end(self) -> list[OutputEvent]:
        """Take the end of the answer."""
        if self._scout is None or not self._scout.in_string:
            return self._go_on()
        self.is_over = True
        self._turn_back()
        return []

    def end(self) -> Reading:
        """Say what became of the passage."""
        return self._reader.end(complete=self.is_over)

    def _go_on(self) -> list[OutputEvent]:
        """The mark was a part of a string."""
        text, self._waiting, self._scout = "".join(self._waiting), [], None
        return self._reader.add(text) if text else []

    def _turn_back(self) -> None:
        """The mark was the end."""
        self.behind = "".join(self._waiting).removeprefix(self._mark)
