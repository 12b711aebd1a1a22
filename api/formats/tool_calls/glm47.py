"""GLM's calls: a name, then parameters as `<arg_key>path</arg_key>`, `<arg_value>a.py</arg_value>`."""

from functools import partial

from ..grammars.parameter_syntax import ParameterSyntax
from ..readers.parameter_calls import ParameterCalls, ParameterPatterns
from .call_syntax import CallSyntax


def key_value_patterns(prefix: str = "") -> ParameterPatterns:
    """Make the patterns of a format whose keys and values each have tags. prefix: of the tags' names."""
    key_tag, value_tag = f"{prefix}arg_key", f"{prefix}arg_value"
    return ParameterPatterns(
        head=rf"\A\s*(?P<name>[\w.:-]+)\s*(?=<{key_tag}>|\Z)",
        key=rf"<{key_tag}>(?P<key>(?:(?!<{key_tag}>).)*?)</{key_tag}>(?:\\n|\s)*<{value_tag}>",
        close=f"</{value_tag}>",
        head_end=f"<{key_tag}>",
    )


SYNTAX = ParameterSyntax(
    head="NAME\n",
    key="<arg_key>KEY</arg_key>\n<arg_value>",
    close="</arg_value>\n",
    end="",
    body_end="</tool_call>",
)

GLM47 = CallSyntax("glm47", partial(ParameterCalls, key_value_patterns()), SYNTAX.define_rule)
