"""MiniMax M2's calls: `<invoke name="read">`, parameters as `<parameter name="path">a.py</parameter>`."""

from functools import partial

from ..grammars.parameter_syntax import ParameterSyntax
from ..readers.parameter_calls import ParameterCalls, ParameterPatterns
from .call_syntax import CallSyntax

PATTERNS = ParameterPatterns(
    head=r"<invoke name=[\"']?(?P<name>[^<>\"']*)[\"']?>",
    key=r"<parameter name=[\"']?(?P<key>[^<>\"']*)[\"']?>",
    close="</parameter>",
    end="</invoke>",
)
SYNTAX = ParameterSyntax(
    head='<invoke name="NAME">\n',
    key='<parameter name="KEY">',
    close="</parameter>\n",
    end="</invoke>",
    repeats=True,
    body_end="</minimax:tool_call>",
)

MINIMAX_M2 = CallSyntax("minimax_m2", partial(ParameterCalls, PATTERNS), SYNTAX.define_rule)
