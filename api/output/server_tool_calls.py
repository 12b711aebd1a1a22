"""The calls of one answer's server tools: what each gives to the client and to the model."""

import asyncio
from collections import abc
from dataclasses import dataclass, replace
from typing import Any

from ..schema import MessagesRequest, ServerTool
from ..server_rounds import NOTHING_FOUND, listed_pages
from ..server_tools import KINDS
from ..tool_search import BadQuery, find_by_pattern, find_by_words
from ..web_search import Hit, SearchCommand, SearchFailed, in_domains

MAX_USES = 10  # of one tool in one answer, where the client sets no bound

NOT_THERE = "The tool {} is not available on this server. Say so in your answer, and make up no results."
ALL_USED = "The tool {} may not be called again. Answer with what you have."


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """What a call has given.

    content: in the API's form. shown: the result's content for the model. is_last: the tool may not be called
    again. is_search: the web was searched.
    """

    content: Any
    shown: Any
    is_last: bool = False
    is_search: bool = False


class ServerTools:
    """Runs the server tools of one request."""

    def __init__(self, body: MessagesRequest, search: SearchCommand | None) -> None:
        """search: None where the server has no command that searches the web."""
        tools = body.tools or ()
        self._tools = {tool.name: tool.server for tool in tools if tool.server is not None}
        self._hidden = [
            tool for tool in tools if tool.defer_loading and not tool.is_placeholder and tool.server is None
        ]
        self._search = search
        self._num_uses: dict[str, int] = {}

    @property
    def is_empty(self) -> bool:
        """Whether the request has no server tools."""
        return not self._tools

    def find(self, name: str) -> ServerTool | None:
        """Return a server tool by its name; None for a tool that the client runs."""
        return self._tools.get(name)

    def result_type(self, name: str) -> str:
        """Return the type of the block that holds a tool's result."""
        return f"{KINDS[self._tools[name].kind].result}_tool_result"

    async def run(self, name: str, arguments: dict[str, Any]) -> ToolOutcome:
        """Run a call of a server tool."""
        tool = self._tools[name]
        used = self._num_uses.get(name, 0)
        limit = MAX_USES if tool.max_uses is None else min(tool.max_uses, MAX_USES)
        finds_tools = tool.kind.startswith("tool_search")
        if used >= limit:
            code = "too_many_requests" if finds_tools else "max_uses_exceeded"
            return _failed(tool, code, ALL_USED.format(name))
        if finds_tools:
            outcome = await self._find_tools(tool, arguments)
        elif tool.kind == "web_search" and self._search is not None:
            outcome = await self._search_web(self._search, tool, arguments)
        else:
            return _failed(tool, "unavailable", NOT_THERE.format(name))
        self._num_uses[name] = used + 1  # a call that was cancelled is made again
        return replace(outcome, is_last=used + 1 >= limit)

    async def _search_web(
        self, search: SearchCommand, tool: ServerTool, arguments: dict[str, Any]
    ) -> ToolOutcome:
        try:
            hits = await search.search(str(arguments.get("query", "")))
        except SearchFailed as error:
            return _failed(tool, "unavailable", str(error))
        pages = [_page(hit) for hit in hits if _is_wanted(hit, tool)]
        return ToolOutcome(pages, listed_pages(pages), is_search=True)

    async def _find_tools(self, tool: ServerTool, arguments: dict[str, Any]) -> ToolOutcome:
        find = find_by_pattern if tool.kind == "tool_search_tool_regex" else find_by_words
        query = str(arguments.get("query", arguments.get("pattern", "")))
        try:
            names = await asyncio.to_thread(find, self._hidden, query)
        except BadQuery as error:
            return _failed(tool, "invalid_tool_input", str(error))
        return _found_tools(names)


def _failed(tool: ServerTool, code: str, text: str) -> ToolOutcome:
    content = {"type": f"{KINDS[tool.kind].result}_tool_result_error", "error_code": code}
    if tool.kind.startswith("tool_search"):
        content["error_message"] = text
    return ToolOutcome(content, f"Error: {text}", is_last=True)


def _found_tools(names: abc.Sequence[str]) -> ToolOutcome:
    """Return the outcome of a search for tools: references, in whose places the model reads the tools."""
    references = [{"type": "tool_reference", "tool_name": name} for name in names]
    content = {"type": "tool_search_tool_search_result", "tool_references": references}
    return ToolOutcome(content, references or NOTHING_FOUND)


def _is_wanted(hit: Hit, tool: ServerTool) -> bool:
    if tool.allowed_domains and not in_domains(hit.url, tool.allowed_domains):
        return False
    return not in_domains(hit.url, tool.blocked_domains)


def _page(hit: Hit) -> dict[str, Any]:
    """Return a hit in the API's form. Its text, which Anthropic encrypts, comes back with later requests."""
    return {
        "type": "web_search_result",
        "title": hit.title,
        "url": hit.url,
        "text": hit.text,
        "encrypted_content": "",
        "page_age": None,
    }
