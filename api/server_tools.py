"""Anthropic's tools that the server runs and that clients name by a type alone, as tools of the model."""

import re
from dataclasses import dataclass
from typing import Any

Json = Any

DATED = re.compile(r"(web_search|web_fetch|code_execution)_\d{8}")

TEXT = {"type": "string"}


@dataclass(frozen=True, slots=True)
class ToolKind:
    """What is said of a server tool. parameter: its only one."""

    description: str
    parameter: str
    meaning: str


KINDS = {
    "web_search": ToolKind(
        "Searches the web and returns titles, addresses and texts of pages.", "query", "What to search for."
    ),
    "web_fetch": ToolKind("Returns the text of a web page.", "url", "The page's address."),
    "code_execution": ToolKind("Runs Python code and returns what it prints.", "code", "The code to run."),
}


def server_tool_form(tool: Json) -> Json:
    """Return a server tool as a tool with name, description and schema; of any other value None.

    The server's part of it is under `server`: the kind, and what the client says of it.
    """
    found = DATED.fullmatch(str(tool.get("type"))) if isinstance(tool, dict) else None
    if found is None:
        return None
    kind = KINDS[found[1]]
    return {
        "name": tool.get("name", found[1]),
        "description": kind.description,
        "input_schema": {
            "type": "object",
            "properties": {kind.parameter: TEXT | {"description": kind.meaning}},
            "required": [kind.parameter],
        },
        "server": {
            "kind": found[1],
            "max_uses": tool.get("max_uses"),
            "allowed_domains": tool.get("allowed_domains") or [],
            "blocked_domains": tool.get("blocked_domains") or [],
        },
    }
