"""MiniCPM 5's calls: `<function name="read">`, then parameters as `<param name="path">a.py</param>`.

The start tag is `<function name=`, so that the body begins with the tool's name in quotes.
"""

from functools import partial

from ..grammars.parameter_syntax import ParameterSyntax
from ..readers.parameter_calls import ParameterCalls, ParameterPatterns
from .call_syntax import CallSyntax

PATTERNS = ParameterPatterns(
    head=r"\A\s*[\"']?(?P<name>[^<>\"'\s][^<>\"']*)(?:[\"']\s*)?>",
    key=r"<param\s+name\s*=\s*[\"']?(?P<key>[^<>\"']*)(?:[\"']\s*)?>",
    close="</param>",
    cdata=True,
)
SYNTAX = ParameterSyntax(
    head='"NAME">\n',
    key='<param name="KEY">',
    close="</param>\n",
    end="",
    body_end="</function>",
    cdata=True,
)

MINICPM5 = CallSyntax("minicpm5", partial(ParameterCalls, PATTERNS), SYNTAX.define_rule)
