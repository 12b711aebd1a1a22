"""Kimi K2's calls, one or more between the tags of a section.

`<|tool_call_begin|>functions.read:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`
"""

import re
from collections import abc
from functools import partial

from ..grammars.callable_tool import CallableTool
from ..grammars.lark import Lark, literal
from ..grammars.properties import json_arguments
from ..readers.header_calls import HeaderCalls
from .call_syntax import CallSyntax

TAGS = ("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>")
HEADER = re.compile(r"(?<![^\s<>|])(?:functions\.)?([^\s<>|]+?):\d+\s*<\|tool_call_argument_begin\|>")


def _define_rule(lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
    rules = [json_arguments(lark, tool.schema) for tool in tools]
    heads = [f'"functions."? {literal(f"{tool.name}:")} /[0-9]{{1,3}}/' for tool in tools]
    begin, middle, end = map(lark.tag, TAGS)
    calls = zip(heads, rules, strict=True)
    forms = [f"{begin} SPACE {head} SPACE {middle} SPACE {rule} SPACE {end}" for head, rule in calls]
    call = lark.one_of(forms)
    return lark.new(f"{call} (SPACE {call})*")


KIMI_K2 = CallSyntax("kimi_k2", partial(HeaderCalls, HEADER), _define_rule, bare_starts=TAGS[:1])
