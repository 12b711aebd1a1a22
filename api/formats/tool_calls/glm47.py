"""GLM's calls: a name, then parameters as `<arg_key>path</arg_key>`, `<arg_value>a.py</arg_value>`."""

import re
from functools import partial

from ..grammars.parameter_syntax import ParameterSyntax, named_text
from ..readers.parameter_calls import ParameterCalls, ParameterPatterns, parameter_parts
from .call_syntax import CallSyntax


def key_value_patterns(prefix: str = "") -> ParameterPatterns:
    """Make the patterns of a format whose keys and values each have tags. prefix: of the tags' names."""
    key_tag, value_tag = f"{prefix}arg_key", f"{prefix}arg_value"
    key = rf"<{key_tag}>(?P<key>.*?)</{key_tag}>(?:\\n|\s)*<{value_tag}>"
    return ParameterPatterns(
        ends=re.compile(f"<{key_tag}>|</{value_tag}>"),
        parts=parameter_parts(r"\A", key, f"</{value_tag}>"),
    )


SYNTAX = ParameterSyntax(
    head="NAME\n",
    key="<arg_key>KEY</arg_key>\n<arg_value>",
    close="</arg_value>\n",
    end="",
    is_text=named_text,
    body_end="</tool_call>",
    loose=True,  # GLM 4.5 and 4.6 write line breaks, GLM 4.7 and its kin none
)

GLM47 = CallSyntax("glm47", partial(ParameterCalls, key_value_patterns()), SYNTAX.define_rule)
