"""Calls as plain JSON: `{"name": "read", "arguments": {…}}`."""

from collections import abc
from typing import Any

from ...protocols import ToolParser
from ..grammars.callable_tool import CallableTool
from ..grammars.lark import Lark, literal
from ..grammars.properties import json_arguments
from ..readers.call_reader import CallReader, tool_names
from ..readers.json_calls import JsonCalls
from .call_syntax import CallSyntax


def define_json_calls(
    lark: Lark, tools: abc.Sequence[CallableTool], arguments: abc.Sequence[str], more: str = ""
) -> str:
    """Define the rule for a call as JSON.

    arguments: the rules of each tool's arguments. more: the grammar of the text after the arguments.
    """
    lark.rule("HEAD", r'/\{[ \n]{0,4}"name"[ \n]?:[ \n]?/')
    lark.rule("MIDDLE", r'/[ \n]?,[ \n]{0,4}"arguments"[ \n]?:[ \n]?/')
    heads = [f"HEAD {literal(literal(tool.name))} MIDDLE" for tool in tools]
    return lark.one_of([f"{head} {rule}{more} CLOSE" for head, rule in zip(heads, arguments, strict=True)])


def _make_reader(_parser: ToolParser, tools: abc.Sequence[dict[str, Any]], _has_end: bool) -> CallReader:
    return JsonCalls(tool_names(tools))


def _define_rule(lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
    return define_json_calls(lark, tools, [json_arguments(lark, tool.schema) for tool in tools])


JSON_TOOLS = CallSyntax("json_tools", _make_reader, _define_rule)
