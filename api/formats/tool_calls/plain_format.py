"""The format of calls for chat templates that know no tools, and the system text that asks for it."""

import json
from collections import abc
from typing import Any

from ...schema import Tool
from ..json_text import dump
from .json_tools import JSON_TOOLS
from .template_tools import template_tool
from .tool_format import ToolFormat

START_TAG, END_TAG = "<tool_call>", "</tool_call>"

RULES = """\
# Tools

You can use the tools listed below. To use one, write its name and arguments as one JSON object between \
<tool_call> and </tool_call>:
<tool_call>
{"name": "the tool's name", "arguments": {"an argument": "its value"}}
</tool_call>
Write one such block for each call and nothing after the last one: the results are sent to you in \
<tool_response> blocks. Use only these tools, with the arguments that their schemas name.

<tools>
"""


def plain_format() -> ToolFormat:
    """Return the format: `<tool_call>{json}</tool_call>`."""
    return ToolFormat(START_TAG, END_TAG, lambda text, _tools: json.loads(text), JSON_TOOLS)


def describe_tools(tools: abc.Sequence[dict[str, Any]]) -> str:
    """Write the tools and the rules of the format as a part of the system text."""
    return RULES + "\n".join(dump(tool["function"]) for tool in tools) + "\n</tools>"


def describe_loaded(tool: Tool) -> str:
    """Write a tool whose loading was deferred, for the place at which the conversation loads it."""
    return f"<tools>\n{dump(template_tool(tool))}\n</tools>"


def plain_call(name: str, arguments: dict[str, Any]) -> str:
    """Write a call of an earlier answer."""
    return f"{START_TAG}\n{dump({'name': name, 'arguments': arguments})}\n{END_TAG}"


def plain_result(content: str) -> str:
    """Write a tool's result."""
    return f"<tool_response>\n{content}\n</tool_response>"
