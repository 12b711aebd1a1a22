"""Token ids to text, thinking and tool calls: a state machine without I/O.

What it is fed in pieces of any size, it gives back the same: text is held back only while it could be the
beginning of a mark (`<tool_call>`, `</think>`, a stop sequence) or space before one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .detokenizer import Detokenizer
from .tools import ParseResult, ToolCall, ToolFormat, is_inside_string

SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Thinking:
    text: str


Piece = Text | Thinking | ToolCall
"""A part of an answer. Texts that follow one another belong to one block, and so do thoughts."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """What can occur in an answer beside plain text.

    think: the marks around thoughts, None when the model has none.
    """

    stop_sequences: Sequence[str] = ()
    tool_format: ToolFormat | None = None
    tools: Sequence[dict[str, Any]] = ()
    think: tuple[str, str] | None = None
    starts_thinking: bool = False
    one_call: bool = False  # end the answer after its first tool call

    @property
    def is_plain(self) -> bool:
        """Whether nothing but text can occur, so that no space need be held back."""
        return self.tool_format is None and self.think is None


class Mode(Enum):
    TEXT = "text"
    THINKING = "thinking"
    CALL = "call"


class OutputParser:
    """Reads one answer. Once `done`, the rest of what is sampled is of no interest."""

    def __init__(self, detokenizer: Detokenizer, grammar: Grammar) -> None:
        self.done = False
        self.stop_sequence: str | None = None  # the one that was met
        self.has_calls = False
        self.results: list[ParseResult] = []  # what became of each marked call
        self._detokenizer = detokenizer
        self._grammar = grammar
        self._mode = Mode.THINKING if grammar.starts_thinking else Mode.TEXT
        self._buffer = ""  # text not yet looked through
        self._space = ""  # trailing space of the open block, shown only if more of the block follows
        self._call: list[str] = []  # what stands behind a call's start mark
        self._quoted_end: int | None = None  # place in it of the first end mark that stands in a string
        self._block: type[Piece] | None = None  # kind of the block that is open
        self._pieces: list[Piece] = []

    def feed(self, tokens: list[int]) -> list[Piece]:
        """Take tokens and return the pieces that have become certain."""
        self._buffer += self._detokenizer.add(tokens)
        self._scan()
        return self._take()

    def finish(self) -> list[Piece]:
        """Return what was held back; nothing may be fed afterwards."""
        if not self.done:
            self._buffer += self._detokenizer.flush()
            self._scan()
            self._end()
        return self._take()

    def _take(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def _scan(self) -> None:
        """Move text from the buffer to where it belongs, as far as no mark can begin in it."""
        while not self.done:
            marks = self._marks()
            found = _find_first(self._buffer, marks)
            if found is None:
                keep = _overlap(self._buffer, marks)
                self._emit(self._buffer[: len(self._buffer) - keep])
                self._buffer = self._buffer[len(self._buffer) - keep :]
                return
            place, mark = found
            self._emit(self._buffer[:place])
            self._buffer = self._buffer[place + len(mark) :]
            self._cross(mark)

    def _marks(self) -> list[str]:
        """List the marks that would end the present mode."""
        grammar = self._grammar
        if self._mode is Mode.CALL:
            return [grammar.tool_format.end] if grammar.tool_format and grammar.tool_format.end else []
        if self._mode is Mode.THINKING:
            return [grammar.think[1]] if grammar.think else []
        marks = [grammar.tool_format.start] if grammar.tool_format else []
        marks += [grammar.think[0]] if grammar.think else []
        return [*marks, *grammar.stop_sequences]

    def _cross(self, mark: str) -> None:
        """Change the mode at a mark."""
        grammar = self._grammar
        if self._mode is Mode.CALL:
            self._cross_call_end(mark)
        elif self._mode is Mode.THINKING:
            # Even empty thoughts are a block to what follows them.
            self._mode, self._space, self._block = Mode.TEXT, "", Thinking
        elif grammar.tool_format and mark == grammar.tool_format.start:
            self._mode = Mode.CALL
        elif grammar.think and mark == grammar.think[0]:
            self._mode, self._space = Mode.THINKING, ""
        else:
            self._flush_space()
            self.stop_sequence, self.done = mark, True

    def _cross_call_end(self, mark: str) -> None:
        """End the call, unless the mark is a part of a string in it, such as a file that speaks of marks."""
        if is_inside_string("".join(self._call)):
            self._quoted_end = len(self._call) if self._quoted_end is None else self._quoted_end
            self._call.append(mark)
            return
        self._mode, self._quoted_end = Mode.TEXT, None
        self._finish_call(mark, complete=True)

    def _emit(self, text: str) -> None:
        if self._mode is Mode.CALL:
            self._call.append(text)
        elif self._mode is Mode.THINKING:
            self._emit_in_block(Thinking, text)
        else:
            self._emit_in_block(Text, text)

    def _emit_in_block(self, kind: type[Text] | type[Thinking], text: str) -> None:
        """Add to a block. Space where it borders on another block is the template's, not its own."""
        if self._block is not kind and (self._block is not None or kind is Thinking):
            text = text.lstrip(SPACE)
        text = self._space + text
        shown = text if self._grammar.is_plain else text.rstrip(SPACE)
        self._space = text[len(shown) :]
        if shown:
            self._block = kind
            self._pieces.append(kind(shown))

    def _finish_call(self, end: str, *, complete: bool) -> None:
        """Turn a marked passage into calls, or into text again when it holds none."""
        tool_format = self._grammar.tool_format
        assert tool_format is not None, "a call has a format"
        text, self._call = "".join(self._call), []
        parsed = tool_format.parse(text, self._grammar.tools, complete=complete)
        self.results.append(parsed.result)
        if not parsed.calls:
            self._emit_in_block(Text, tool_format.start + text + end)
            return
        self._space, self._block, self.has_calls = "", ToolCall, True
        self._pieces += parsed.calls[:1] if self._grammar.one_call else parsed.calls
        self.done = self._grammar.one_call

    def _end(self) -> None:
        """Deal with what is open at the end of the answer."""
        self._emit(self._buffer)
        self._buffer = ""
        if self._mode is Mode.CALL:
            self._mode = Mode.TEXT
            self._end_call()
        if self._mode is Mode.TEXT:
            self._flush_space()

    def _end_call(self) -> None:
        """Deal with a call open at the end. If its string was never closed, its first mark ended it."""
        if self._quoted_end is None:
            self._finish_call("", complete=False)
            return
        call, mark = self._call[: self._quoted_end], self._call[self._quoted_end]
        rest = "".join(self._call[self._quoted_end + 1 :])
        self._call = call
        self._finish_call(mark, complete=True)
        self._emit_in_block(Text, rest)

    def _flush_space(self) -> None:
        """Show trailing space after all: the text it belongs to ends the answer, or is the whole of it."""
        if self._space and self._block in (None, Text):
            self._pieces.append(Text(self._space))
            self._block = Text
        self._space = ""


def _find_first(text: str, marks: Sequence[str]) -> tuple[int, str] | None:
    """Find the mark that ends first, the only choice that does not depend on how much text is there."""
    found = [(place + len(mark), place, mark) for mark in marks if (place := text.find(mark)) >= 0]
    if not found:
        return None
    _, place, mark = min(found)
    return place, mark


def _overlap(text: str, marks: Sequence[str]) -> int:
    """Count the characters at the end of `text` that a mark may begin with."""
    longest = max((len(mark) for mark in marks), default=0)
    for size in range(min(longest - 1, len(text)), 0, -1):
        tail = text[-size:]
        if any(mark.startswith(tail) for mark in marks):
            return size
    return 0
