"""Token ids to text, thinking and tool calls: a state machine without I/O.

What it is fed in pieces of any size, it gives back the same: text is held back only while it could be the
beginning of a mark (`<tool_call>`, `</think>`, a stop sequence) or space before one.
"""

from collections import abc
from enum import Enum

from ..formats.answer_format import AnswerFormat
from ..formats.detokenizer import Detokenizer
from ..formats.output_events import OutputEvent, TextDelta, ThinkingDelta, ToolCallEnd, ToolCallStart
from ..formats.readers.call_reader import ParseResult
from ..formats.readers.tool_call_body import ToolCallBody
from ..formats.tag_search import find_first, overlap

SPACE = " \t\r\n"


class Mode(Enum):
    TEXT = "text"
    THINKING = "thinking"
    CALL = "call"


class OutputParser:
    """Reads one answer. Once `done`, the rest of what is sampled is of no interest."""

    def __init__(self, detokenizer: Detokenizer, grammar: AnswerFormat) -> None:
        self.done = False
        self.stop_sequence: str | None = None  # the one that was met
        self.has_calls = False
        self.results: list[ParseResult] = []  # what became of each marked call
        self._detokenizer = detokenizer
        self._grammar = grammar
        self._mode = Mode.THINKING if grammar.starts_thinking else Mode.TEXT
        self._buffer = ""  # text not yet looked through
        self._space = ""  # trailing space of the open block, shown only if more of the block follows
        self._body: ToolCallBody | None = None  # what stands behind a call's start mark
        self._block: type[OutputEvent] | None = None  # kind of the block that is open
        self._events: list[OutputEvent] = []

    @property
    def in_text(self) -> bool:
        """Whether what comes next is text, neither thought nor call."""
        return self._mode is Mode.TEXT

    @property
    def in_thoughts(self) -> bool:
        """Whether what comes next is thought."""
        return self._mode is Mode.THINKING

    def feed(self, tokens: list[int]) -> list[OutputEvent]:
        """Take tokens and return the pieces that have become certain."""
        self._buffer += self._detokenizer.add(tokens)
        self._scan()
        return self._take()

    def finish(self) -> list[OutputEvent]:
        """Return what was held back; nothing may be fed afterwards."""
        if not self.done:
            self._buffer += self._detokenizer.flush()
            self._end()
        return self._take()

    def _take(self) -> list[OutputEvent]:
        events, self._events = self._events, []
        return events

    def _scan(self) -> None:
        """Move text from the buffer to where it belongs, as far as no mark can begin in it."""
        while not self.done:
            marks, mode = self._marks(), self._mode
            found = find_first(self._buffer, marks)
            place = len(self._buffer) - overlap(self._buffer, marks) if found is None else found[0]
            text, self._buffer = self._buffer[:place], self._buffer[place:]
            self._emit(text)
            if self._mode is not mode:
                continue  # the text has ended a call, and is back in the buffer in part
            if found is None or self.done:
                return
            self._buffer = self._buffer[len(found[1]) :]
            self._cross(found[1])

    def _marks(self) -> list[str]:
        """List the marks that would end the present mode."""
        grammar = self._grammar
        if self._mode is Mode.CALL:
            return [grammar.tool_format.end] if grammar.tool_format and grammar.tool_format.end else []
        if self._mode is Mode.THINKING:
            return [grammar.thinking.end] if grammar.thinking else []
        marks = [grammar.tool_format.start] if grammar.tool_format else []
        marks += [grammar.thinking.start] if grammar.thinking else []
        if grammar.is_value and self._has_begun(marks):
            return list(grammar.stop_sequences)
        return [*marks, *grammar.stop_sequences]

    def _has_begun(self, marks: abc.Sequence[str]) -> bool:
        """Whether the text has begun, or does so in the buffer, where none of `marks` may stand instead."""
        text = self._buffer.lstrip(SPACE)
        may_be_mark = any(mark.startswith(text) or text.startswith(mark) for mark in marks)
        return self._block is TextDelta or (bool(text) and not may_be_mark)

    def _cross(self, mark: str) -> None:
        """Change the mode at a mark."""
        grammar = self._grammar
        if self._mode is Mode.CALL:
            assert self._body is not None, "a call has a body"
            self._follow(self._body, self._body.add_end_tag())
        elif self._mode is Mode.THINKING:
            # Even empty thoughts are a block to what follows them.
            self._mode, self._space, self._block = Mode.TEXT, "", ThinkingDelta
        elif grammar.tool_format and mark == grammar.tool_format.start:
            self._mode = Mode.CALL
            self._body = grammar.tool_format.body(grammar.tools)
        elif grammar.thinking and mark == grammar.thinking.start:
            self._mode, self._space = Mode.THINKING, ""
        else:
            self._flush_space()
            self.stop_sequence, self.done = mark, True

    def _emit(self, text: str) -> None:
        if self._body is not None:
            self._follow(self._body, self._body.add(text))
        elif self._mode is Mode.THINKING:
            self._emit_in_block(ThinkingDelta, text)
        else:
            self._emit_in_block(TextDelta, text)

    def _emit_in_block(self, kind: type[TextDelta] | type[ThinkingDelta], text: str) -> None:
        """Add to a block. Space where it borders on another block is the template's, not its own."""
        if self._block is not kind and (self._block is not None or kind is ThinkingDelta):
            text = text.lstrip(SPACE)
        text = self._space + text
        shown = text if self._grammar.is_plain else text.rstrip(SPACE)
        self._space = text[len(shown) :]
        if shown:
            self._block = kind
            self._events.append(kind(shown))

    def _show_calls(self, events: list[OutputEvent]) -> None:
        """Show pieces of calls; where one call is all that is wanted, its end is the answer's."""
        if events:
            self._space, self._block, self.has_calls = "", ToolCallStart, True
        ends = [place for place, event in enumerate(events, 1) if isinstance(event, ToolCallEnd)]
        if ends and self._grammar.one_call:
            self.done = True
            events = events[: ends[0]]
        self._events += events

    def _follow(self, body: ToolCallBody, events: list[OutputEvent]) -> None:
        """Show what a body has brought, and go on behind it when it is over."""
        self._show_calls(events)
        if self.done:
            self.results.append("ok")
        elif body.is_over:
            self._end_body(body)

    def _end_body(self, body: ToolCallBody) -> None:
        """Go on behind a body. What holds no call is text again."""
        tool_format = self._grammar.tool_format
        assert tool_format is not None, "a body has a format"
        self._mode, self._body = Mode.TEXT, None
        result = body.result()
        self._show_calls(result.events)
        self.results.append(result.result)
        if result.text:
            end = tool_format.end if body.is_over else ""
            self._emit_in_block(TextDelta, tool_format.start + result.text + end)
        rest = result.unread
        if body.is_over:  # what stands before the mark is of no interest, unless it was another call's
            place = rest.find(tool_format.start)
            rest = rest[place:] + tool_format.end if place >= 0 else ""
        self._buffer = rest + body.remainder + self._buffer

    def _end(self) -> None:
        """Deal with what is open at the end of the answer."""
        while not self.done and (self._buffer or self._body is not None):
            self._scan()
            text, self._buffer = self._buffer, ""
            self._emit(text)
            if self._body is not None and not self.done:
                self._show_calls(self._body.end_answer())
                self._end_body(self._body)
        if self._mode is Mode.TEXT and not self.done:
            self._flush_space()

    def _flush_space(self) -> None:
        """Show trailing space after all: the text it belongs to ends the answer, or is the whole of it."""
        if self._space and self._block in (None, TextDelta):
            self._events.append(TextDelta(self._space))
            self._block = TextDelta
        self._space = ""
