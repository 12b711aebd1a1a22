"""The form in which a template is given a request's tools: some print no odd schemas, or fail on them.

A tool whose name, description or arguments are missing from the rendered text is described: its whole schema
stands in its description, as JSON, and beside it plain arguments that every template can print.
"""

import re
from collections import OrderedDict, abc
from collections.abc import Callable
from typing import Any

from ..formats.json_text import dump

TemplateTool = dict[str, Any]

TryRenderTools = Callable[[abc.Sequence[TemplateTool]], str | None]
"""Renders a short conversation with tools; None where the template refuses them."""

SIMPLE_TYPES = ("string", "number", "integer", "boolean")

WORDS = re.compile(r"[A-Za-z0-9]{3,}")
"""Words that are the same in a text and in its JSON."""

MAX_WORDS = 12  # of a description that are looked for

MAX_KEPT = 64  # sets of tools whose form is kept


class ShownTools:
    """Finds, and keeps, the forms in which one template shows sets of tools."""

    def __init__(self, render: TryRenderTools) -> None:
        self._render = render
        self._known: OrderedDict[str, list[TemplateTool] | None] = OrderedDict()

    def find(self, tools: list[TemplateTool]) -> list[TemplateTool] | None:
        """Return the tools in a form that the template shows, None where it shows none."""
        if not tools:
            return tools
        key = dump(tools)
        if key not in self._known:
            self._known[key] = self._find(tools)
            if len(self._known) > MAX_KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]

    def _find(self, tools: list[TemplateTool]) -> list[TemplateTool] | None:
        if self._shows(tools, tools):
            return tools
        shown = [tool if self._shows([tool], [tool]) else described(tool) for tool in tools]
        return shown if self._shows(shown, tools) else None

    def _shows(self, shown: list[TemplateTool], wanted: list[TemplateTool]) -> bool:
        text = self._render(shown)
        return text is not None and all(word in text for tool in wanted for word in words_of_tool(tool))


def words_of_tool(tool: TemplateTool) -> set[str]:
    """Return words of each text that shows a tool: its name, its arguments', some of its description."""
    function = tool["function"]
    properties = function["parameters"].get("properties")
    names = [name for name in properties if WORDS.fullmatch(name)] if isinstance(properties, dict) else []
    return {function["name"], *names, *WORDS.findall(function["description"])[:MAX_WORDS]}


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
