"""Which reader shows a call's arguments while they are written.

JSON goes to the client token by token; of some other formats each parameter goes when it is whole, and of the
rest the call.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from ..output import harmony
from ..protocols import ToolParser
from .headed import HeadedCalls
from .json_calls import JsonCalls
from .members import MemberCalls, Members
from .reader import CallReader, tool_names
from .whole import WholeCalls

# By the names of the parsers' modules. These write JSON behind a head with the name.
HEADS = {
    "mistral": re.compile(r"([\w-]+)\s*\[ARGS\]"),
    "harmony": harmony.HEAD,
    "kimi_k2": re.compile(r"(?:functions\.)?([^\s<>|]+?):\d+\s*<\|tool_call_argument_begin\|>"),
}
MEMBERS = {
    "qwen3_coder": Members(re.compile(r"<function=[^<>]*>|</parameter>"), "</function>"),
    "glm47": Members(re.compile(r"<arg_key>|</arg_value>")),
    "longcat": Members(re.compile(r"<longcat_arg_key>|</longcat_arg_value>")),
    "minimax_m2": Members(re.compile(r"<invoke name=[^<>]*>|</parameter>"), "</invoke>"),
    "minicpm5": Members(re.compile(r"\A\s*[^<>]*>|</param>")),
    "muse_spark": Members(re.compile(r"<atem:invoke\b[^<>]*>|</atem:parameter>")),
}


def call_reader(parser: ToolParser, tools: Sequence[dict[str, Any]]) -> CallReader:
    """Choose the reader for what `parser` parses."""
    name = parser.__module__.rpartition(".")[2]
    if name in HEADS:
        return HeadedCalls(parser, tools, HEADS[name])
    if name in MEMBERS:
        return MemberCalls(parser, tools, MEMBERS[name])
    return JsonCalls(tool_names(tools)) if reads_json(parser) else WholeCalls(parser, tools)


def reads_json(parser: ToolParser) -> bool:
    """Try whether a parser reads plain JSON calls, and as they are."""
    probe = {"name": "probe", "arguments": {"key": [1, "value"]}}
    try:
        return bool(parser(json.dumps(probe), []) == probe)
    except Exception:
        return False
