"""MiniMax M2's calls: `<invoke name="read">`, parameters as `<parameter name="path">a.py</parameter>`."""

import re
from functools import partial

from ..grammars.parameter_syntax import ParameterSyntax, possible_text
from ..readers.parameter_calls import ParameterCalls, ParameterPatterns, parameter_parts
from .call_syntax import CallSyntax

PATTERNS = ParameterPatterns(
    ends=re.compile(r"<invoke name=[^<>]*>|</parameter>"),
    parts=parameter_parts(
        r"<invoke name=", r"<parameter name=[\"']?(?P<key>[^<>\"']*)[\"']?>", "</parameter>"
    ),
    closing="</invoke>",
)
SYNTAX = ParameterSyntax(
    head='<invoke name="NAME">\n',
    key='<parameter name="KEY">',
    close="</parameter>\n",
    end="</invoke>",
    is_text=possible_text,
    not_null=True,
    repeats=True,
    body_end="</minimax:tool_call>",
)

MINIMAX_M2 = CallSyntax("minimax_m2", partial(ParameterCalls, PATTERNS), SYNTAX.define_rule)
