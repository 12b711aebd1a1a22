"""Other spellings of a request's parts, whose meaning is plain, brought to one form.

All functions take parsed JSON and return it; what they do not know they return as it is, for the types of
the body to refuse.
"""

import json
from typing import Any

from .bounded_json import BadJson, bounded_json
from .public_tools import public_tool

Json = Any
"""A value of parsed JSON."""

NO_ARGUMENTS: dict[str, Json] = {"type": "object", "properties": {}}


def unparsed_input(raw: str) -> dict[str, Json]:
    """Return the input of a call whose arguments are no JSON object, in Claude Code's own form.

    Claude Code answers such a call with an error result, from which the model can recover; a call that was
    sent as text would end the model's turn.
    """
    return {"__unparsedToolInput": {"raw": raw, "len": len(raw)}}


def call_input(arguments: Json) -> dict[str, Json]:
    """Return a call's arguments as an object: of an object, of its JSON text, or of nothing."""
    if isinstance(arguments, dict):
        return arguments
    if arguments is None or arguments == "" or arguments == []:
        return {}
    if not isinstance(arguments, str):
        return unparsed_input(json.dumps(arguments))
    try:
        value = bounded_json(arguments.encode())
    except BadJson:
        return unparsed_input(arguments)
    return {} if value is None else value if isinstance(value, dict) else unparsed_input(arguments)


def stop_list(stop: Json) -> Json:
    """Return stop sequences as a list, without empty ones, which would end every answer."""
    if isinstance(stop, str):
        stop = [stop]
    return [text for text in stop if text not in ("", None)] if isinstance(stop, list) else stop


def bias_form(biases: Json) -> Json:
    """Return biases as an object from token id to bias: of one, or of llama.cpp's list of pairs."""
    if not isinstance(biases, list):
        return biases
    pairs = [pair for pair in biases if isinstance(pair, list) and len(pair) == 2]
    if len(pairs) < len(biases) or not all(isinstance(token, int) for token, _ in pairs):
        raise ValueError("must map ids of tokens to biases")
    return {token: -100.0 if bias is False else bias for token, bias in pairs}


def tool_form(tool: Json) -> Json:
    """Return a tool as Anthropic's API has it: of OpenAI's form, without a type, or with a public one.

    Raises ValueError for a tool that the server would have to run.
    """
    if not isinstance(tool, dict):
        return tool
    kind = tool.get("type")
    if public := public_tool(str(kind)):
        return public | {name: value for name, value in tool.items() if name not in ("type", "input_schema")}
    if kind not in (None, "custom", "function") or (kind == "custom" and "custom" in tool):
        raise ValueError(f"tool {str(kind)[:80]!r} is not supported: {_reason(str(kind))}")
    function = tool.get("function")
    found = {**tool, **function} if isinstance(function, dict) else dict(tool)
    for name in ("input_schema", "parameters", "inputSchema"):
        if found.get(name) not in (None, True):
            return found | {"input_schema": found[name]}
    return found | {"input_schema": NO_ARGUMENTS}


def _reason(kind: str) -> str:
    """Return why a tool of a kind is refused."""
    if kind.startswith("mcp"):
        return "this server calls no MCP servers; a client that calls them itself can offer their tools"
    if kind.startswith("computer"):
        return "the models that this server runs read no pictures"
    return "this server does not run it"


def tool_choice_form(choice: Json) -> Json:
    """Return a tool choice as Anthropic's API has it, of the spellings of both APIs."""
    if isinstance(choice, str):
        choice = {"type": choice}
    if not isinstance(choice, dict):
        return choice
    kind, name = choice.get("type"), choice.get("name")
    named = choice.get("function")
    if isinstance(named, dict):
        name = named.get("name", name)
    if kind == "allowed_tools":
        return _allowed_tools(choice.get("allowed_tools") or choice)
    if kind in ("function", "custom") or (kind is None and name is not None):
        kind = "tool"
    return choice | {"type": "any" if kind == "required" else kind, "name": name}


def _allowed_tools(allowed: Json) -> Json:
    """Return OpenAI's choice among some of the tools."""
    tools = allowed.get("tools") if isinstance(allowed, dict) else None
    if not isinstance(tools, list):
        raise ValueError("allowed_tools: must list tools")
    names = [tool_form(tool).get("name") for tool in tools if isinstance(tool, dict)]
    return {"type": "any" if allowed.get("mode") == "required" else "auto", "names": names}
