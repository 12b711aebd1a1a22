"""How tools are shown to the model, and the format of its calls.

A model whose chat template knows tools uses its own format and mlx-lm's parser for it. For any other model
the tools are described in the system text, and calls are asked for as `<tool_call>{json}</tool_call>`.
"""

import json
from collections import abc
from dataclasses import dataclass
from typing import Any

from ...protocols import Tokenizer, ToolParser
from ...schema import Tool
from .. import harmony
from ..readers.call_reader import dump
from ..readers.call_readers import call_reader
from ..readers.tool_call_body import Passage

PLACEHOLDER_TOOL = "DeferredToolPlaceholder"  # the client sends it to switch a beta on; never to be called

PLAIN_START, PLAIN_END = "<tool_call>", "</tool_call>"

PLAIN_RULES = """\
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


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """The marks around a call, and the parser of what stands between them.

    end: empty where a call lasts until the end of the answer.
    """

    start: str
    end: str
    parser: ToolParser

    def passage(self, tools: abc.Sequence[dict[str, Any]]) -> Passage:
        """Begin to read what stands between the marks. `tools` are the request's."""
        return Passage(call_reader(self.parser, tools, bool(self.end)), self.end)


def native_format(tokenizer: Tokenizer) -> ToolFormat | None:
    """Return the model's own format, None when there is no parser for it."""
    if harmony.is_harmony(tokenizer):
        return ToolFormat(harmony.CALL_START, harmony.CALL, harmony.parse_call)
    if not tokenizer.has_tool_calling or not tokenizer.tool_call_start or tokenizer.tool_parser is None:
        return None
    return ToolFormat(tokenizer.tool_call_start, tokenizer.tool_call_end or "", tokenizer.tool_parser)


def plain_format() -> ToolFormat:
    """Return the format that is asked for when the template knows no tools."""
    return ToolFormat(PLAIN_START, PLAIN_END, lambda text, _tools: json.loads(text))


def template_tool(tool: Tool) -> dict[str, Any]:
    """Convert a tool to the form that chat templates and mlx-lm's parsers read."""
    function = {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
    return {"type": "function", "function": function}


def head_tools(tools: abc.Sequence[Tool]) -> list[dict[str, Any]]:
    """List the tools to show at the head of the prompt: those known from the start."""
    return [template_tool(tool) for tool in tools if not tool.defer_loading and tool.name != PLACEHOLDER_TOOL]


def describe_tools(tools: abc.Sequence[dict[str, Any]]) -> str:
    """Write the tools and the rules of the plain format as a part of the system text."""
    return PLAIN_RULES + "\n".join(dump(tool["function"]) for tool in tools) + "\n</tools>"


def describe_loaded(tool: Tool) -> str:
    """Write the schema of a tool that was loaded late, for the place where it was loaded."""
    return f"<tools>\n{dump(template_tool(tool))}\n</tools>"


def plain_call(name: str, arguments: dict[str, Any]) -> str:
    """Write a call of an earlier turn in the plain format."""
    return f"{PLAIN_START}\n{dump({'name': name, 'arguments': arguments})}\n{PLAIN_END}"


def plain_result(content: str) -> str:
    """Write a tool's result in the plain format."""
    return f"<tool_response>\n{content}\n</tool_response>"
