"""The grammar of an answer: tool calls in the model's own format, and values that conform to a schema.

Property names and values are JSON of llguidance's making; around them stands what the format's reader wants,
with little space, and in one order.
"""

from collections import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..formats.grammars.lark import Lark, literal
from ..formats.grammars.parameter_syntax import GLM, LONGCAT, MINICPM, MINIMAX, QWEN3_CODER, TextSyntax
from ..formats.grammars.properties import PUNCTUATION, json_arguments
from ..formats.readers.call_readers import reads_json
from ..formats.tool_calls.function_gemma import function_gemma_calls
from ..formats.tool_calls.gemma4 import gemma4_calls
from ..formats.tool_calls.kimi_k3 import kimi_k3_calls
from ..formats.tool_calls.muse_spark import muse_spark_calls
from ..formats.tool_calls.pythonic import pythonic_calls
from ..formats.tool_calls.tool_format import ToolFormat

TEXT = r"/(?s:.*)/"
SPACE = r"/[ \n]{0,4}/"
LINE = r"/\n?/"


@dataclass(frozen=True, slots=True)
class CallableTool:
    """A tool and the schema of its arguments, in the compiler's terms."""

    name: str
    schema: dict[str, Any]


Syntax = Callable[[Lark, abc.Sequence[CallableTool]], str]
"""Defines the rule for what stands between a call's marks, and returns the rule's name."""


@dataclass(frozen=True, slots=True)
class CallFormat:
    """How a model writes calls. end: empty where calls last until the end of the answer."""

    start: str
    end: str
    syntax: Syntax

    def rule(self, lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
        """Define the rule for a call with its marks."""
        body = self.syntax(lark, tools)
        end = f" LINE {lark.mark(self.end)}" if self.end else ""  # some parsers take no more space than that
        return lark.new(f"{lark.mark(self.start)} SPACE {body}{end}")


def call_grammar(lark: Lark, calls: CallFormat, tools: abc.Sequence[CallableTool]) -> str:
    """Write the grammar of a call, and of free text behind it where the format ends calls with a mark."""
    call = calls.rule(lark, tools)
    lark.rules(PUNCTUATION | {"SPACE": SPACE, "LINE": LINE, "TEXT": TEXT})
    lark.rule("start", f"SPACE {call}{' TEXT' if calls.end else ''}")
    return str(lark)


def value_grammar(
    lark: Lark, schema: str, calls: CallFormat | None, tools: abc.Sequence[CallableTool]
) -> str:
    """Write the grammar of an answer that is one value, or else calls and nothing beside them."""
    value = lark.json(schema)
    lark.rules(PUNCTUATION | {"SPACE": SPACE, "LINE": LINE})
    if calls is None:
        lark.rule("start", f"SPACE {value}")
    else:
        call = calls.rule(lark, tools)
        lark.rule("start", f"SPACE ({value} | {call} (SPACE {call})*)")
    return str(lark)


def call_format(tool_format: ToolFormat) -> CallFormat | None:
    """Find the grammar for what the format's parser reads; None when there is none for it."""
    parser = tool_format.parser
    syntax = SYNTAXES.get(parser.__module__.rpartition(".")[2])
    if syntax is None and reads_json(parser):
        syntax = json_calls
    return CallFormat(tool_format.start, tool_format.end, syntax) if syntax else None


def json_calls(lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
    """`{"name": "read", "arguments": {…}}`"""
    rules = [json_arguments(lark, tool.schema) for tool in tools]
    return _json_call(lark, tools, rules)


def _json_call(
    lark: Lark, tools: abc.Sequence[CallableTool], rules: abc.Sequence[str], more: str = ""
) -> str:
    """Define the rule for a call as JSON. rules: of each tool's arguments. more: what stands behind them."""
    lark.rule("HEAD", r'/\{[ \n]{0,4}"name"[ \n]?:[ \n]?/')
    lark.rule("MIDDLE", r'/[ \n]?,[ \n]{0,4}"arguments"[ \n]?:[ \n]?/')
    heads = [f"HEAD {literal(literal(tool.name))} MIDDLE" for tool in tools]
    return lark.one_of([f"{head} {rule}{more} CLOSE" for head, rule in zip(heads, rules, strict=True)])


def mistral_calls(lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
    """`read[ARGS]{…}`, and after `[TOOL_CALLS]` perhaps another; older models write a list of JSON calls."""
    rules = [json_arguments(lark, tool.schema) for tool in tools]
    calls = zip(tools, rules, strict=True)
    call = lark.one_of([f"{literal(tool.name)} {lark.mark('[ARGS]')} {rule}" for tool, rule in calls])
    lark.rule("ID", r'/[ \n]?,[ \n]{0,4}"id"[ \n]?:[ \n]?"[a-zA-Z0-9_-]{1,40}"/')
    lark.rules({"LIST": r"/\[[ \n]{0,4}/", "LIST_END": r"/[ \n]{0,4}\]/"})
    listed = _json_call(lark, tools, rules, more=" ID?")
    headed = f"{call} (SPACE {lark.mark('[TOOL_CALLS]')} {call})*"
    return lark.new(f"{headed} | LIST {listed} (COMMA {listed})* LIST_END")


def kimi_calls(lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
    """`<|tool_call_begin|>functions.read:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`, one or more."""
    rules = [json_arguments(lark, tool.schema) for tool in tools]
    heads = [literal(f"functions.{tool.name}:") + " /[0-9]{1,3}/" for tool in tools]
    begin, middle, end = map(lark.mark, KIMI_MARKS)
    calls = zip(heads, rules, strict=True)
    call = lark.one_of([f"{begin} {head} {middle} {rule} {end}" for head, rule in calls])
    return lark.new(f"{call} (SPACE {call})*")


def text_calls(syntax: TextSyntax) -> Syntax:
    """Calls in a format whose parameters stand as text."""
    return plain_calls(syntax.calls)


def plain_calls(calls: Callable[[Lark, abc.Sequence[tuple[str, dict[str, Any]]]], str]) -> Syntax:
    """Calls in a format whose module knows tools as names and schemas."""
    return lambda lark, tools: calls(lark, [(tool.name, tool.schema) for tool in tools])


KIMI_MARKS = ("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>")

# By the names of mlx-lm's modules; Laguna's parser is GLM's. What is not here is JSON, or decoded freely.
SYNTAXES: dict[str, Syntax] = {
    "mistral": mistral_calls,
    "kimi_k2": kimi_calls,
    "qwen3_coder": text_calls(QWEN3_CODER),
    "glm47": text_calls(GLM),
    "longcat": text_calls(LONGCAT),
    "minimax_m2": text_calls(MINIMAX),
    "minicpm5": text_calls(MINICPM),
    "pythonic": plain_calls(pythonic_calls),
    "kimi_k3": plain_calls(kimi_k3_calls),
    "muse_spark": plain_calls(muse_spark_calls),
    "gemma4": plain_calls(gemma4_calls),
    "function_gemma": plain_calls(function_gemma_calls),
}
