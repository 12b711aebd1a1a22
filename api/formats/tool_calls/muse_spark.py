"""Muse Spark's calls: `<atem:invoke name="read"><atem:parameter name="path">a.py</atem:parameter>` ….

Muse Glimmer's stand in messages of their own, whose heads name the tool: ` to=read<|message|>`.
"""

from dataclasses import replace
from functools import partial

from ..grammars.parameter_syntax import ParameterSyntax
from ..readers.parameter_calls import ParameterCalls, ParameterPatterns
from .call_syntax import CallSyntax

PATTERNS = ParameterPatterns(
    head=r'<atem:invoke\b[^<>]*?\bname="(?P<name>[^"<>]+)"\s*>',
    key=r'<atem:parameter\b[^>]*?\bname="(?P<key>[^"]+)"[^>]*?>',
    close="</atem:parameter>",
    end="</atem:invoke>",
)
SYNTAX = ParameterSyntax(
    head='<atem:invoke name="NAME">\n',
    key='<atem:parameter name="KEY">',
    close="</atem:parameter>\n",
    end="</atem:invoke>",
    repeats=True,
    body_end="</atem:function_calls>",
)

START = "<atem:function_calls>"
HEAD = f"NAME<|message|>{START}"
HEADED = replace(SYNTAX, head=f"{HEAD}\n{SYNTAX.head}", repeats=False)

MUSE_GLIMMER = CallSyntax("muse_glimmer", partial(ParameterCalls, PATTERNS), HEADED.define_rule)
MUSE_SPARK = CallSyntax("muse_spark", partial(ParameterCalls, PATTERNS), SYNTAX.define_rule)
