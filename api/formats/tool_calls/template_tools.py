"""A request's tools in the form that chat templates and mlx-lm's parsers read."""

from collections import abc
from typing import Any

from ...schema import Tool


def template_tool(tool: Tool) -> dict[str, Any]:
    """Return a tool in that form."""
    function = {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
    return {"type": "function", "function": function}


def head_tools(tools: abc.Sequence[Tool]) -> list[dict[str, Any]]:
    """List the tools to show at the head of the prompt, without deferred tools and placeholders."""
    return [template_tool(tool) for tool in tools if tool.is_in_head]
