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

EXAMPLE_NAME, EXAMPLE_ARGUMENTS = "the tool's name", {"an argument": "its value"}

PLAIN_RULES = """\
To use one, write its name and arguments as one JSON object between <tool_call> and </tool_call>:
<tool_call>
{"name": "the tool's name", "arguments": {"an argument": "its value"}}
</tool_call>
Write one such block for each call and nothing after the last one: the results are sent to you in \
<tool_response> blocks."""


def plain_format() -> ToolFormat:
    """Return the format: `<tool_call>{json}</tool_call>`."""
    return ToolFormat(START_TAG, END_TAG, lambda text, _tools: json.loads(text), JSON_TOOLS)


def native_rules(example: str) -> str:
    """Write the rules of a format of the model's own, by an example that calls EXAMPLE_NAME."""
    return f"To use one, write its name and arguments exactly so, and nothing after the last call:\n{example}"


def describe_tools(tools: abc.Sequence[dict[str, Any]], rules: str = PLAIN_RULES) -> str:
    """Write the tools and the rules of the format as a part of the system text."""
    shown = "\n".join(dump(tool["function"]) for tool in tools)
    return (
        f"# Tools\n\nYou can use the tools listed below. {rules} "
        f"Use only these tools, with the arguments that their schemas name.\n\n<tools>\n{shown}\n</tools>"
    )


def describe_loaded(tool: Tool) -> str:
    """Write a tool whose loading was deferred, for the place at which the conversation loads it."""
    return f"<tools>\n{dump(template_tool(tool))}\n</tools>"


def plain_call(name: str, arguments: dict[str, Any]) -> str:
    """Write a call of an earlier answer."""
    return f"{START_TAG}\n{dump({'name': name, 'arguments': arguments})}\n{END_TAG}"


def plain_result(content: str) -> str:
    """Write a tool's result."""
    return f"<tool_response>\n{content}\n</tool_response>"
