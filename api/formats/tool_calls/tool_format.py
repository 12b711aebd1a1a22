"""The format of a model's tool calls: its tags, mlx-lm's parser, and the syntax between the tags."""

from collections import abc
from dataclasses import dataclass
from typing import Any

from ...protocols import Tokenizer, ToolParser
from .. import harmony
from ..grammars.callable_tool import CallableTool
from ..grammars.lark import Lark
from ..readers.tool_call_body import ToolCallBody
from . import harmony_calls
from .call_syntax import CallSyntax
from .registry import find_syntax


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """The tags around a call, and the reader and grammar of the text between them.

    end: empty where a call lasts until the end of the answer.
    """

    start: str
    end: str
    parser: ToolParser
    syntax: CallSyntax

    @classmethod
    def of_parser(cls, start: str, end: str, parser: ToolParser) -> "ToolFormat":
        """Make the format that `parser` reads."""
        return cls(start, end, parser, find_syntax(parser))

    @property
    def is_constrained(self) -> bool:
        """Whether there is a grammar for the format's calls."""
        return self.syntax.define_rule is not None

    def body(self, tools: abc.Sequence[dict[str, Any]]) -> ToolCallBody:
        """Return a reader of the text after a call's start tag. tools: all of the request's."""
        return ToolCallBody(self.syntax.make_reader(self.parser, tools, bool(self.end)), self.end)

    def define_rule(self, lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
        """Define the grammar's rule for a call with its tags, and return the rule's name."""
        assert self.syntax.define_rule is not None, "the format is constrained"
        body = self.syntax.define_rule(lark, tools)
        end = f" LINE {lark.tag(self.end)}" if self.end else ""  # LINE: some parsers accept no more space
        return lark.new(f"{lark.tag(self.start)} SPACE {body}{end}")


def native_format(tokenizer: Tokenizer) -> ToolFormat | None:
    """Return the format that the model was trained on, None when mlx-lm has no parser for it."""
    if harmony.is_harmony(tokenizer):
        return ToolFormat.of_parser(harmony.CALL_START, harmony.CALL, harmony_calls.parse_call)
    if not tokenizer.has_tool_calling or not tokenizer.tool_call_start or tokenizer.tool_parser is None:
        return None
    return ToolFormat.of_parser(
        tokenizer.tool_call_start, tokenizer.tool_call_end or "", tokenizer.tool_parser
    )
