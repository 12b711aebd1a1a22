"""Hy3's calls: `<tool_call>read<tool_sep>`, then GLM's parameters, one or more between the tags of a section.

The names of all tags may have a suffix: `<tool_call:opensource>`.
"""

from functools import partial

from ..grammars.parameter_syntax import ParameterSyntax
from ..readers.parameter_calls import ParameterCalls, ParameterPatterns
from .call_syntax import CallSyntax


def hy3_syntax(suffix: str) -> CallSyntax:
    """Describe the format. suffix: of the tags' names."""
    call, sep, key, value = (f"{name}{suffix}" for name in ("tool_call", "tool_sep", "arg_key", "arg_value"))
    patterns = ParameterPatterns(
        head=rf"<{call}>\s*(?P<name>[\w.:-]+)\s*<{sep}>",
        key=rf"<{key}>(?P<key>(?:(?!<{key}>).)*?)</{key}>\s*<{value}>",
        close=f"</{value}>",
    )
    grammar = ParameterSyntax(
        head=f"<{call}>NAME<{sep}>\n",
        key=f"<{key}>KEY</{key}>\n<{value}>",
        close=f"</{value}>\n",
        end=f"</{call}>",
        repeats=True,
        body_end=f"</tool_calls{suffix}>",
    )
    return CallSyntax("hy3", partial(ParameterCalls, patterns), grammar.define_rule)
