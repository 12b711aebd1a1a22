"""Qwen3-Coder's calls: `<function=read>`, then parameters as `<parameter=path>` a.py `</parameter>`."""

import re
from functools import partial

from ..grammars.parameter_syntax import ParameterSyntax, untyped_text
from ..readers.parameter_calls import ParameterCalls, ParameterPatterns, parameter_parts
from .call_syntax import CallSyntax

PATTERNS = ParameterPatterns(
    ends=re.compile(r"<function=[^<>]*>|</parameter>"),
    parts=parameter_parts(r"\A", r"<parameter=(?P<key>[^<>]*)>\n?", "</parameter>", space=r"\n?"),
    closing="</function>",
)
SYNTAX = ParameterSyntax(
    head="<function=NAME>\n",
    key="<parameter=KEY>\n",
    close="\n</parameter>\n",
    end="</function>",
    is_text=untyped_text,
    not_null=True,
    body_end="</tool_call>",
)

QWEN3_CODER = CallSyntax("qwen3_coder", partial(ParameterCalls, PATTERNS), SYNTAX.define_rule)
