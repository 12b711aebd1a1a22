"""LongCat's calls: GLM's, with other names of tags; a call without parameters is JSON."""

from functools import partial

from ..grammars.parameter_syntax import ParameterSyntax
from ..readers.parameter_calls import ParameterCalls
from .call_syntax import CallSyntax
from .glm47 import key_value_patterns

SYNTAX = ParameterSyntax(
    head="NAME\n",
    key="<longcat_arg_key>KEY</longcat_arg_key>\n<longcat_arg_value>",
    close="</longcat_arg_value>\n",
    end="",
    bare='{"name": "NAME", "arguments": {}}',
    body_end="</longcat_tool_call>",
)

LONGCAT = CallSyntax("longcat", partial(ParameterCalls, key_value_patterns("longcat_")), SYNTAX.define_rule)
