"""The form in which a template is given a request's tools: some print no odd schemas, or fail on them.

A tool whose name, description or arguments are missing from the rendered text is described: its whole schema
stands in its description, as JSON, and beside it plain arguments that every template can print.
"""

import re
import threading
from collections import OrderedDict, abc
from collections.abc import Callable
from typing import Any

from ..formats.json_text import dump

TemplateTool = dict[str, Any]

TryRenderTools = Callable[[abc.Sequence[TemplateTool]], str | None]
"""Renders a short conversation with tools; None where the template refuses them."""

SIMPLE_TYPES = ("string", "number", "integer", "boolean")

WORDS = re.compile(r"[A-Za-z0-9]{3,}")
ESCAPES = re.compile(r"\\+(?:u[0-9a-fA-F]{4}|.)?", re.DOTALL)
"""Escapes of JSON: without them, a text and its JSON have the same words."""

MAX_SINGLE = 200  # tools that are tried one by one, of a set that is not shown whole

MAX_CHARS = 200  # of a description whose words are looked for

MAX_KEPT = 64  # sets of tools whose form is kept


class ShownTools:
    """Finds, and keeps, the forms in which one template shows sets of tools."""

    def __init__(self, render: TryRenderTools) -> None:
        self._render = render
        self._known: OrderedDict[tuple[bytes, str], list[TemplateTool] | None] = OrderedDict()
        self._lock = threading.Lock()  # of _known: several threads render

    def find(self, tools: list[TemplateTool], space: bytes = b"") -> list[TemplateTool] | None:
        """Return the tools in a form that the template shows, None where it shows none.

        space: what is known of one is found anew for another.
        """
        if not tools:
            return tools
        key = space, dump(tools)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        shown = self._find(tools)
        with self._lock:
            self._known[key] = shown
            if len(self._known) > MAX_KEPT:
                self._known.popitem(last=False)
        return shown

    def _find(self, tools: list[TemplateTool]) -> list[TemplateTool] | None:
        if self._shows(tools, tools):
            return tools
        tries = len(tools) <= MAX_SINGLE
        shown = [tool if tries and self._shows([tool], [tool]) else described(tool) for tool in tools]
        return shown if self._shows(shown, tools) else None

    def _shows(self, shown: list[TemplateTool], wanted: list[TemplateTool]) -> bool:
        text = self._render(shown)
        if text is None:
            return False
        words = _words(text)
        return all(words >= words_of_tool(tool) for tool in wanted)


def words_of_tool(tool: TemplateTool) -> set[str]:
    """Return words of each text that shows a tool: its name, its arguments', some of its description."""
    function = tool["function"]
    properties = function["parameters"].get("properties")
    names = " ".join(properties) if isinstance(properties, dict) else ""
    begin = function["description"][:MAX_CHARS].rpartition(" ")[0]
    return _words(f"{function['name']} {names} {begin}")


def _words(text: str) -> set[str]:
    return set(WORDS.findall(ESCAPES.sub(" ", text)))


def described(tool: TemplateTool) -> TemplateTool:
    """Return a tool whose schema stands in its description, with plain arguments."""
    function = tool["function"]
    schema = function["parameters"]
    properties = schema.get("properties")
    plain = {
        name: {"type": _simple_type(value), "description": ""}
        for name, value in (properties.items() if isinstance(properties, dict) else ())
    }
    words = f"{function['description']}\n\nJSON schema of the arguments: {dump(schema)}".strip()
    parameters = {"type": "object", "properties": plain, "required": []}
    return {
        "type": "function",
        "function": {"name": function["name"], "description": words, "parameters": parameters},
    }


def _simple_type(value: object) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) and kind in SIMPLE_TYPES else "string"
