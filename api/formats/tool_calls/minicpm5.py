"""MiniCPM 5's calls: `<function name="read">`, then parameters as `<param name="path">a.py</param>`.

The start tag is `<function name=`, so that the body begins with the tool's name in quotes.
"""

import re
from functools import partial

from ..grammars.parameter_syntax import ParameterSyntax, possible_text
from ..readers.parameter_calls import ParameterCalls, ParameterPatterns, parameter_parts
from .call_syntax import CallSyntax

PATTERNS = ParameterPatterns(
    ends=re.compile(r"\A\s*[^<>]*>|</param>"),
    parts=parameter_parts(r"\A", r"<param\s+name\s*=\s*[\"']?(?P<key>[^<>\"']*)[\"']?\s*>", "</param>"),
)
SYNTAX = ParameterSyntax(
    head='"NAME">',
    key='<param name="KEY">',
    close="</param>",
    end="",
    is_text=possible_text,
    not_null=True,
    body_end="</function>",
)

MINICPM5 = CallSyntax("minicpm5", partial(ParameterCalls, PATTERNS), SYNTAX.define_rule)
