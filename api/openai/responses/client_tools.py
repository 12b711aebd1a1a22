"""The tools of a request, as functions that any chat template can show, and the way back from a call.

Clients run tools of several kinds. A model knows functions only: each kind becomes a function, and a call of
it becomes the kind's own item again. Tools that a server would have to run are refused by name.
"""

from collections import abc
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field, ValidationError

from ...errors import InvalidRequest
from ...lenient import NO_ARGUMENTS, Json
from ...schema import Tool
from ...wire_base import Wire

Kind = Literal["function", "custom", "local_shell", "shell", "apply_patch", "tool_search"]

LEFT_OUT = ("web_search", "web_search_preview")
"""Kinds that Codex sends whatever the server can do. Their versions have a date as suffix.

A search for tools by the server is left out as well: all tools are shown, also those that it would find.
"""

_TEXT = {"type": "string"}
_TIMEOUT = {"type": "integer", "description": "Limit in milliseconds"}

ACTION_TOOLS: dict[str, tuple[str, dict[str, Any]]] = {
    # Tools with a schema of their own: description and parameters.
    "local_shell": (
        "Runs a command on the user's machine and returns its output.",
        {
            "type": "object",
            "properties": {
                "command": {"type": "array", "items": _TEXT, "description": "The program and its arguments"},
                "working_directory": _TEXT,
                "timeout_ms": _TIMEOUT,
            },
            "required": ["command"],
        },
    ),
    "shell": (
        "Runs shell commands, one after the other, and returns their output.",
        {
            "type": "object",
            "properties": {"commands": {"type": "array", "items": _TEXT}, "timeout_ms": _TIMEOUT},
            "required": ["commands"],
        },
    ),
    "apply_patch": (
        "Creates, updates or deletes one file. The diff has hunks that begin with @@; each line begins "
        "with a space, a + or a -.",
        {
            "type": "object",
            "properties": {
                "type": {"enum": ["create_file", "update_file", "delete_file"]},
                "path": _TEXT,
                "diff": _TEXT,
            },
            "required": ["type", "path"],
        },
    ),
}


class AnyTool(Wire):
    """A tool of any kind; a namespace holds tools."""

    type: str = Field(max_length=100)
    name: str | None = Field(default=None, max_length=200)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None  # calls keep to their schemas anyway
    format: dict[str, Any] | None = None  # of a custom tool's input
    environment: Any = None  # of a shell: its type
    execution: str | None = Field(default=None, max_length=20)  # of a search for tools
    tools: list["AnyTool"] | None = None  # of a namespace


class ChosenFunction(Wire):
    """A function's name, as the chat's API names it in a choice."""

    name: str | None = Field(default=None, max_length=200)


class ChosenTools(Wire):
    """The tool that an answer must call, or, of the type `allowed_tools`, the tools that it may call."""

    type: str = Field(max_length=100)
    name: str | None = Field(default=None, max_length=200)
    function: ChosenFunction | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list["ChosenTools"] | None = None


@dataclass(frozen=True, slots=True)
class ClientTool:
    """A tool as the model sees it (`function`), and as the client knows it."""

    kind: Kind
    name: str
    namespace: str | None
    function: Tool


def function_name(name: str, namespace: str | None) -> str:
    """Return the name under which the model knows a tool of a namespace."""
    return name if not namespace else f"{namespace.removesuffix('__')}__{name}"


def read_tools(specs: Iterable[AnyTool]) -> tuple[dict[str, ClientTool], list[str]]:
    """Return the client's tools by the model's name, and the types of the tools that are left out.

    Raises InvalidRequest for a tool that this server would have to run, and for a name that occurs twice.
    """
    tools: dict[str, ClientTool] = {}
    left_out: list[str] = []
    for spec, namespace in _flat(specs):
        is_search = spec.type == "tool_search" and spec.execution != "client"
        if is_search or spec.type.partition("_20")[0] in LEFT_OUT:
            left_out.append(spec.type)
            continue
        tool = _client_tool(spec, namespace)
        if tool.function.name in tools:
            raise InvalidRequest(f"tools: the name {tool.function.name!r} occurs twice")
        tools[tool.function.name] = tool
    return tools, left_out


def added_tools(specs: Iterable[Json]) -> dict[str, ClientTool]:
    """Return the tools that a conversation adds, which are shown where it adds them.

    Nothing is refused, because every later request repeats the conversation: unreadable tools are left out.
    """
    tools: dict[str, ClientTool] = {}
    for spec in specs:
        try:
            found, _ = read_tools([AnyTool.model_validate(spec)])
        except (InvalidRequest, ValidationError):
            continue
        tools |= found
    for name, tool in tools.items():
        deferred = tool.function.model_copy(update={"defer_loading": True})
        tools[name] = replace(tool, function=deferred)
    return tools


def chosen_names(tools: abc.Mapping[str, ClientTool], choice: ChosenTools) -> list[str]:
    """Return the model's names of the tools that a choice names.

    Raises InvalidRequest where the request has no such tool.
    """
    name = choice.name or (choice.function.name if choice.function else None)
    if choice.type == "namespace":
        found = [function for function, tool in tools.items() if tool.namespace == name]
    else:
        alike = {function: tool for function, tool in tools.items() if tool.kind == choice.type}
        found = [function for function, tool in alike.items() if name in (None, function, tool.name)]
    if not found:
        raise InvalidRequest(f"tool_choice: no tool {(name or choice.type)!r} in tools")
    return found


def _flat(specs: Iterable[AnyTool]) -> Iterable[tuple[AnyTool, str | None]]:
    """Yield all tools, those of a namespace with its name."""
    for spec in specs:
        if spec.type != "namespace":
            yield spec, None
            continue
        for inner in spec.tools or ():
            yield inner, spec.name


def _client_tool(spec: AnyTool, namespace: str | None) -> ClientTool:
    description, parameters = spec.description, spec.parameters
    match spec.type:
        case "function":
            kind: Kind = "function"
        case "custom":
            kind, parameters = "custom", _text_parameters()
            description = _custom_description(spec)
        case "tool_search" if spec.execution == "client":
            kind = "tool_search"
        case "local_shell" | "apply_patch" | "shell":
            if isinstance(spec.environment, dict) and spec.environment.get("type") != "local":
                raise InvalidRequest("tools: a shell in a container is not supported: this server runs none")
            kind = spec.type
            description, parameters = ACTION_TOOLS[spec.type]
        case _:
            raise InvalidRequest(
                f"tools: a tool of type {spec.type!r} is not supported: this server runs no tools itself"
            )
    name = spec.name if kind in ("function", "custom") else spec.type
    if not name:
        raise InvalidRequest(f"tools: a tool of type {spec.type!r} needs a name")
    function = Tool(
        name=function_name(name, namespace), description=description, input_schema=parameters or NO_ARGUMENTS
    )
    return ClientTool(kind, name, namespace, function)


def _text_parameters() -> dict[str, Any]:
    return {"type": "object", "properties": {"input": _TEXT}, "required": ["input"]}


def _custom_description(spec: AnyTool) -> str:
    """Return a custom tool's description with the grammar of its input, which is shown and not enforced."""
    grammar = (spec.format or {}).get("definition")
    if not isinstance(grammar, str):
        return spec.description or ""
    syntax = str((spec.format or {}).get("syntax", ""))[:20]
    return f"{spec.description or ''}\n\nThe input must follow this {syntax} grammar:\n{grammar}".strip()
