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
from .json_tools import define_json_calls

HEADER = re.compile(r"([\w-]+)\s*(?:\[CALL_ID\]\s*[\w-]*\s*)?\[ARGS\]")


def _define_rule(lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
    rules = [json_arguments(lark, tool.schema) for tool in tools]
    calls = zip(tools, rules, strict=True)
    middle = f"({lark.tag('[CALL_ID]')} /[a-zA-Z0-9]{{9}}/)? {lark.tag('[ARGS]')}"
    call = lark.one_of([f"{literal(tool.name)} {middle} {rule}" for tool, rule in calls])
    lark.rule("ID", r'/[ \n]?,[ \n]{0,4}"id"[ \n]?:[ \n]?"[a-zA-Z0-9_-]{1,40}"/')
    lark.rules({"LIST": r"/\[[ \n]{0,4}/", "LIST_END": r"/[ \n]{0,4}\]/"})
    listed = define_json_calls(lark, tools, rules, more=" ID?")
    headed = f"{call} (SPACE {lark.tag('[TOOL_CALLS]')} {call})*"
    return lark.new(f"{headed} | LIST {listed} (COMMA {listed})* LIST_END")


MISTRAL = CallSyntax("mistral", partial(HeaderCalls, HEADER), _define_rule)
