"""How tools are shown to the model and how its calls are read back.

A model whose chat template knows tools uses its own format and mlx-lm's parser for it. For any other model
the tools are described in the system text, and calls are asked for as `<tool_call>{json}</tool_call>`.
"""

import json
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .protocols import Tokenizer, ToolParser
from .schema import Tool

ParseResult = Literal["ok", "repaired", "failed"]

PLACEHOLDER_TOOL = "DeferredToolPlaceholder"  # the client sends it to switch a beta on; never to be called

# A JSON string, closed or open at the end of the text; so written, the search never goes back to a quote.
STRING = re.compile(r'"(?:[^"\\]|\\.)*(?:(")|\\?\Z)', re.DOTALL)

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
class ToolCall:
    """A call that the model made. `input` holds nothing that JSON cannot."""

    name: str
    input: dict[str, Any]
    id: str


@dataclass(frozen=True, slots=True)
class ParsedCalls:
    """What became of one marked passage; no calls when it failed beyond repair."""

    calls: list[ToolCall]
    result: ParseResult


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """The marks around a call, and the parser of what stands between them.

    end: empty where a call lasts until the end of the answer.
    """

    start: str
    end: str
    parser: ToolParser

    def parse(self, text: str, tools: Sequence[dict[str, Any]], *, complete: bool) -> ParsedCalls:
        """Read the calls in `text`, the passage between the marks.

        complete: the end mark was seen. Only then is broken JSON mended: a call cut off by the token limit
        must not run with half of its arguments.
        """
        try:
            return ParsedCalls(_calls(self.parser(text, tools)), "ok")
        except Exception:
            # mlx-lm's parsers raise whatever the text makes them stumble over.
            return _repair(text, tools) if complete else ParsedCalls([], "failed")


def native_format(tokenizer: Tokenizer) -> ToolFormat | None:
    """Return the model's own format, None when mlx-lm has no parser for it."""
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


def head_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """List the tools to show at the head of the prompt: those known from the start."""
    return [template_tool(tool) for tool in tools if not tool.defer_loading and tool.name != PLACEHOLDER_TOOL]


def describe_tools(tools: Sequence[dict[str, Any]]) -> str:
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


def dump(value: object) -> str:
    """Write JSON the way chat templates do."""
    return json.dumps(value, ensure_ascii=False)


def _calls(parsed: Any) -> list[ToolCall]:
    """Check what a parser returned. Raises ValueError or TypeError when it is no call."""
    entries = parsed if isinstance(parsed, list) else [parsed]
    if not entries:
        raise ValueError("no call")
    return [_call(entry) for entry in entries]


def _call(entry: Any) -> ToolCall:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise ValueError("a call needs a name")
    arguments = entry.get("arguments", entry.get("parameters", entry.get("input", {})))
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError("arguments must be an object")
    return ToolCall(entry["name"], _json_only(arguments), f"toolu_{secrets.token_hex(12)}")


def _json_only(arguments: dict[str, Any]) -> dict[str, Any]:
    """Refuse values that JSON lacks, and replace lone surrogates, which UTF-8 lacks."""
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    value: dict[str, Any] = json.loads(text.encode("utf-8", "replace"))
    return value


def _repair(text: str, tools: Sequence[dict[str, Any]]) -> ParsedCalls:
    """Mend what small models get wrong; else tell the client, in its own words for it, what was written.

    Claude Code answers `__unparsedToolInput` with an error result, from which the model can recover; a call
    handed over as text would end its turn.
    """
    repairs: tuple[Callable[[str], Any], ...] = (_first_value, _closed)
    for repair in repairs:
        try:
            return ParsedCalls(_calls(repair(text.strip())), "repaired")
        except (ValueError, TypeError, RecursionError):
            continue
    name = re.search(r'"name"\s*:\s*"([^"\\]+)"', text)
    if name is None or name[1] not in {tool["function"]["name"] for tool in tools}:
        return ParsedCalls([], "failed")
    raw = {"__unparsedToolInput": {"raw": text, "len": len(text)}}
    return ParsedCalls([_call({"name": name[1], "arguments": raw})], "failed")


def is_inside_string(text: str) -> bool:
    """Whether JSON stops in the middle of a string, so that a mark right behind it is a part of it."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    closing_quotes = STRING.findall(text)
    return bool(closing_quotes) and not closing_quotes[-1]


def _first_value(text: str) -> Any:
    """Read the first JSON value, with raw line breaks in strings, and forget surplus brackets after it."""
    value, end = json.JSONDecoder(strict=False).raw_decode(text)
    if text[end:].strip(" \n}]"):
        raise ValueError("more text after the value")
    return value


def _closed(text: str) -> Any:
    """Read JSON whose last brackets are missing."""
    closers: list[str] = []
    for match in re.finditer(STRING.pattern + r"|[{}\[\]]", text, re.DOTALL):
        token = match[0]
        if token in "{[":
            closers.append("}" if token == "{" else "]")
        elif token in "}]" and (not closers or closers.pop() != token):
            raise ValueError("brackets do not match")
    return json.loads(text + "".join(reversed(closers)), strict=False)
