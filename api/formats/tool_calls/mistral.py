"""Mistral's calls: `read[ARGS]{…}`, and after `[TOOL_CALLS]` another; older models write a JSON list.

Some write an id between name and arguments: `read[CALL_ID]abcdefghi[ARGS]{…}`.
"""

import re
from collections import abc
from functools import partial

from ..grammars.callable_tool import CallableTool
from ..grammars.lark import Lark, literal
from ..grammars.properties import json_arguments
from ..readers.header_calls import HeaderCalls
from .call_syntax import CallSyntax
from .json_tools import JsonForm

HEADER = re.compile(r"([\w-]+)\s*(?:\[CALL_ID\]\s*[\w-]*\s*)?\[ARGS\]")


def _define_rule(lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
    rules = [json_arguments(lark, tool.schema) for tool in tools]
    calls = zip(tools, rules, strict=True)
    middle = f"({lark.tag('[CALL_ID]')} /[a-zA-Z0-9]{{9}}/)? {lark.tag('[ARGS]')}"
    call = lark.one_of([f"{literal(tool.name)} {middle} {rule}" for tool, rule in calls])
    listed = JsonForm(is_list=True).define_calls(lark, tools, rules)
    headed = f"{call} (SPACE {lark.tag('[TOOL_CALLS]')} {call})*"
    return lark.new(f"{headed} | {listed}")


MISTRAL = CallSyntax("mistral", partial(HeaderCalls, HEADER), _define_rule)
