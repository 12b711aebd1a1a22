"""Which reader shows a call's arguments while they are written.

JSON goes to the client token by token; of some other formats each parameter goes when it is whole, and of the
rest the call.
"""

import json
import re
from collections import abc
from typing import Any

from ...protocols import ToolParser
from .. import harmony
from .call_reader import CallReader, tool_names
from .header_calls import HeadedCalls
from .json_calls import JsonCalls
from .parameter_calls import MemberCalls, Members
from .whole_calls import WholeCalls


def _parts(head: str, key: str, space: str, close: str) -> re.Pattern[str]:
    """Write what matches the parts of calls. space: before `close`, and no part of the value."""
    return re.compile(rf"{head}|{key}(?P<value>.*?){space}(?P<close>{close}|\Z)", re.DOTALL)


def _pairs(mark: str) -> re.Pattern[str]:
    """As `_parts`, where keys stand between marks of their own."""
    key = rf"<{mark}key>(?P<key>.*?)</{mark}key>(?:\\n|\s)*<{mark}value>"
    return _parts(r"\A", key, "", f"</{mark}value>")


# By the names of the parsers' modules. These write JSON behind a head with the name.
HEADS = {
    "mistral": re.compile(r"([\w-]+)\s*\[ARGS\]"),
    "harmony": harmony.HEAD,
    "kimi_k2": re.compile(r"(?:functions\.)?([^\s<>|]+?):\d+\s*<\|tool_call_argument_begin\|>"),
}
# For those that write parameters as text: what ends a part of a call, what its parts are, and what ends it.
MEMBERS = {
    "qwen3_coder": Members(
        re.compile(r"<function=[^<>]*>|</parameter>"),
        _parts(r"\A", r"<parameter=(?P<key>[^<>]*)>\n?", r"\n?", "</parameter>"),
        "</function>",
    ),
    "glm47": Members(re.compile(r"<arg_key>|</arg_value>"), _pairs("arg_")),
    "longcat": Members(re.compile(r"<longcat_arg_key>|</longcat_arg_value>"), _pairs("longcat_arg_")),
    "minimax_m2": Members(
        re.compile(r"<invoke name=[^<>]*>|</parameter>"),
        _parts(r"<invoke name=", r"<parameter name=[\"']?(?P<key>[^<>\"']*)[\"']?>", "", "</parameter>"),
        "</invoke>",
    ),
    "minicpm5": Members(
        re.compile(r"\A\s*[^<>]*>|</param>"),
        _parts(r"\A", r"<param\s+name\s*=\s*[\"']?(?P<key>[^<>\"']*)[\"']?\s*>", "", "</param>"),
    ),
    "muse_spark": Members(
        re.compile(r"<atem:invoke\b[^<>]*>|</atem:parameter>"),
        _parts(
            r"<atem:invoke\b",
            r'<atem:parameter\b[^>]*?\bname="(?P<key>[^"]+)"[^>]*?>',
            "",
            "</atem:parameter>",
        ),
    ),
}


def call_reader(parser: ToolParser, tools: abc.Sequence[dict[str, Any]], has_end: bool) -> CallReader:
    """Choose the reader for what `parser` parses. has_end: the format has an end mark."""
    name = parser.__module__.rpartition(".")[2]
    if name in HEADS:
        return HeadedCalls(parser, tools, has_end, HEADS[name])
    if name in MEMBERS:
        return MemberCalls(parser, tools, MEMBERS[name])
    return JsonCalls(tool_names(tools)) if reads_json(parser) else WholeCalls(parser, tools, has_end)


def reads_json(parser: ToolParser) -> bool:
    """Try whether a parser reads plain JSON calls, and as they are."""
    probe = {"name": "probe", "arguments": {"key": [1, "value"]}}
    try:
        return bool(parser(json.dumps(probe), []) == probe)
    except Exception:
        return False
