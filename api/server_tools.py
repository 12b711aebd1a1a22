"""Anthropic's tools that the server runs and that clients name by a type alone, as tools of the model."""

import re
from dataclasses import dataclass
from typing import Any

Json = Any

TYPE = re.compile(
    r"(?P<dated>web_search|web_fetch|code_execution|advisor)_\d{8}"
    r"|(?P<either>tool_search_tool_(regex|bm25))(_\d{8})?"
)

TEXT = {"type": "string"}


@dataclass(frozen=True, slots=True)
class ToolKind:
    """What is said of a server tool. parameter: its only one, empty for none.

    result: how the types of its results begin.
    """

    description: str
    parameter: str
    meaning: str
    result: str


FINDS_TOOLS = (
    "Finds tools that you have, but that are not shown yet. Search whenever no tool that you see fits the "
    "task; what is found can be called from then on."
)

KINDS = {
    "web_search": ToolKind(
        "Searches the web and returns titles, addresses and texts of pages.",
        "query",
        "What to search for.",
        "web_search",
    ),
    "web_fetch": ToolKind("Returns the text of a web page.", "url", "The page's address.", "web_fetch"),
    "code_execution": ToolKind(
        "Runs Python code and returns what it prints.", "code", "The code to run.", "code_execution"
    ),
    "advisor": ToolKind("Asks another model for advice on the conversation so far.", "", "", "advisor"),
    "tool_search_tool_regex": ToolKind(
        f"{FINDS_TOOLS} Give a regular expression.",
        "query",
        "Is searched for in names, descriptions and arguments of tools, such as (?i)calendar|event.",
        "tool_search",
    ),
    "tool_search_tool_bm25": ToolKind(
        f"{FINDS_TOOLS} Say in words what the tool should do.", "query", "What to search for.", "tool_search"
    ),
}


def server_tool_form(tool: Json) -> Json:
    """Return a server tool as a tool with name, description and schema; of any other value None.

    The server's part of it is under `server`: the kind, and what the client says of it.
    """
    found = TYPE.fullmatch(str(tool.get("type"))) if isinstance(tool, dict) else None
    if found is None:
        return None
    name = found["dated"] or found["either"]
    kind = KINDS[name]
    parameters = {kind.parameter: TEXT | {"description": kind.meaning}} if kind.parameter else {}
    return {
        "name": tool.get("name", name),
        "description": kind.description,
        "input_schema": {
            "type": "object",
            "properties": parameters,
            "required": list(parameters),
        },
        "server": {
            "kind": name,
            "max_uses": tool.get("max_uses"),
            "allowed_domains": tool.get("allowed_domains") or [],
            "blocked_domains": tool.get("blocked_domains") or [],
        },
    }
