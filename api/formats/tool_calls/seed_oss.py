"""Seed-OSS's calls: Qwen3-Coder's, in which the values begin and end at their tags."""

from dataclasses import replace
from functools import partial

from ..readers.parameter_calls import ParameterCalls
from . import qwen3_coder
from .call_syntax import CallSyntax

PATTERNS = replace(qwen3_coder.PATTERNS, key="<parameter=(?P<key>[^<>]*)>", space="")
SYNTAX = replace(
    qwen3_coder.SYNTAX, key="<parameter=KEY>", close="</parameter>\n", body_end="</seed:tool_call>"
)

SEED_OSS = CallSyntax("seed_oss", partial(ParameterCalls, PATTERNS), SYNTAX.define_rule)
