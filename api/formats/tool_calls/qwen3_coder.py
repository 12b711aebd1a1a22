"""Qwen3-Coder's calls: `<function=read>`, then parameters as `<parameter=path>` a.py `</parameter>`."""

from functools import partial

from ..grammars.parameter_syntax import ParameterSyntax
from ..readers.parameter_calls import ParameterCalls, ParameterPatterns
from .call_syntax import CallSyntax

PATTERNS = ParameterPatterns(
    head=r"<function=\s*(?P<name>[^\s<>]+)\s*>",
    key=r"<parameter=(?P<key>[^<>]*)>\n?",
    close="</parameter>",
    space=r"\n?",
    end="</function>",
)
SYNTAX = ParameterSyntax(
    head="<function=NAME>\n",
    key="<parameter=KEY>\n",
    close="\n</parameter>\n",
    end="</function>",
    body_end="</tool_call>",
    breaks_after_head=True,  # a call without start tag is known by it
)

QWEN3_CODER = CallSyntax(
    "qwen3_coder",
    partial(ParameterCalls, PATTERNS),
    SYNTAX.define_rule,
    bare_starts=("<function=NAME>\n",),  # after some text, the model often forgets the tag around its call
)
