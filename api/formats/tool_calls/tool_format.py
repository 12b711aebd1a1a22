"""The format of a model's tool calls: its tags, mlx-lm's parser, and the syntax between the tags."""

from collections import abc
from dataclasses import dataclass
from typing import Any

from ...protocols import ToolParser
from ..grammars.callable_tool import CallableTool
from ..grammars.lark import Lark
from ..output_events import OutputEvent
from ..readers.tool_call_body import ToolCallBody
from .call_syntax import CallSyntax
from .registry import find_syntax


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """The tags around a call, and the reader and grammar of the text between them.

    end: empty where a call lasts until the end of the answer.
    heads: the beginnings of a call's text by which a start tag is told from other text, or which stand for a
        start tag in formats that have none. NAME in a head stands for the name of each tool.
    """

    start: str
    end: str
    parser: ToolParser
    syntax: CallSyntax
    heads: tuple[str, ...] = ("",)

    @classmethod
    def of_parser(cls, start: str, end: str, parser: ToolParser) -> "ToolFormat":
        """Make the format that `parser` reads."""
        return cls(start, end, parser, find_syntax(parser))

    @property
    def is_constrained(self) -> bool:
        """Whether there is a grammar for the format's calls."""
        return self.syntax.define_rule is not None

    @property
    def may_go_on(self) -> bool:
        """Whether text may follow a call in the same answer: the grammar ends a call with a tag."""
        return bool(self.end) and not self.syntax.has_own_tags

    def starts(self, names: abc.Iterable[str]) -> list[str]:
        """List the texts at which a call of one of some tools starts."""
        known = sorted(names)
        starts = [*(self.start + head for head in self.heads), *self.syntax.bare_starts]
        return [
            start.replace("NAME", name) for start in starts for name in (known if "NAME" in start else ("",))
        ]

    def open_body(
        self, start: str, tools: abc.Sequence[dict[str, Any]]
    ) -> tuple[ToolCallBody, list[OutputEvent]]:
        """Return a reader of the text after `start`, and the events of the head in it.

        start: one of `starts`. tools: all of the request's.
        """
        body = ToolCallBody(self.syntax.make_reader(self.parser, tools, bool(self.end)), self.end)
        return body, body.add(start.removeprefix(self.start))

    def write(self, calls: abc.Sequence[tuple[str, dict[str, Any]]]) -> str:
        """Write calls, each a name and arguments, with their tags."""
        assert self.syntax.write is not None, "the format can be written"
        return f"{self.start}{self.syntax.write(calls)}{self.end}"

    def define_rule(self, lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
        """Define the grammar's rule for a call with its tags, and return the rule's name."""
        assert self.syntax.define_rule is not None, "the format is constrained"
        body = self.syntax.define_rule(lark, tools)
        if self.syntax.has_own_tags:
            return body
        end = f" LINE {lark.tag(self.end)}" if self.end else ""  # LINE: some parsers accept no more space
        space = " SPACE" if self.heads == ("",) else ""  # else it would part the start tag from its head
        optional = "?" if self.syntax.bare_starts else ""
        return lark.new(f"({lark.tag(self.start)}{space}){optional} {body}{end}")
