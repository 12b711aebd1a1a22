"""The grammar of an answer: tool calls in the model's own format, or a value that conforms to a schema."""

from collections import abc

from ..formats.grammars.callable_tool import CallableTool
from ..formats.grammars.lark import Lark
from ..formats.grammars.properties import PUNCTUATION
from ..formats.tool_calls.tool_format import ToolFormat

TEXT = r"/(?s:.*)/"


def call_grammar(lark: Lark, tool_format: ToolFormat, tools: abc.Sequence[CallableTool]) -> str:
    """Write the grammar of a call, and of free text after it where the format ends calls with a tag."""
    call = tool_format.define_rule(lark, tools)
    lark.rules(PUNCTUATION | {"TEXT": TEXT})
    lark.rule("start", f"SPACE {call}{' TEXT' if tool_format.end else ''}")
    return str(lark)


def value_grammar(
    lark: Lark, schema: str, tool_format: ToolFormat | None, tools: abc.Sequence[CallableTool]
) -> str:
    """Write the grammar of an answer that is either one value or calls, without other text."""
    value = lark.json(schema)
    lark.rules(PUNCTUATION)
    if tool_format is None:
        lark.rule("start", f"SPACE {value}")
    else:
        call = tool_format.define_rule(lark, tools)
        lark.rule("start", f"SPACE ({value} | {call} (SPACE {call})*)")
    return str(lark)
