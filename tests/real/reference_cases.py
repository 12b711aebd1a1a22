"""Answers of real models' formats with the text, thoughts and calls that their makers' peers read in them."""

import json
import re
from collections import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
BAD_NAME = "a tool whose name Anthropic's API does not allow"

NO_TOOL = "unnamed"  # of a request whose answer calls no tool that its test names

Call = tuple[str, str]
"""A call's name, and its arguments as JSON text."""

Read = Callable[[str], tuple[str, list[Call], str]]
"""Reads an answer; returns its text, its calls and its thoughts."""


@dataclass(frozen=True, slots=True)
class Case:
    """One answer and what it means.

    template: the name of the chat template. answer: what the model writes after the prompt.
    thinks: the request asks for thoughts. is_partial: the answer is cut off.
    schema: of the answer, as JSON text; empty for none. messages: of the request; empty for any.
    is_open: the calls may have other arguments too, and a name that is empty may be any. text: None for any.
    check: says what is wrong with a reader, where the case is code; text and calls are then not known.
    set_aside: why the case cannot be judged here; empty where it can.
    """

    source: str
    template: str
    answer: str
    text: str | None
    thoughts: str
    calls: tuple[Call, ...]
    tools: tuple[dict[str, Any], ...] = ()
    thinks: bool = False
    is_partial: bool = False
    schema: str = ""
    must_call: bool = False
    is_open: bool = False
    set_aside: str = ""
    messages: tuple[dict[str, Any], ...] = ()
    check: Callable[[Read], str] | None = None


JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


def case_of(
    source: str,
    template: str,
    answer: str,
    text: str | None,
    calls: abc.Sequence[tuple[str, dict[str, Any]]],
    tools: abc.Sequence[dict[str, Any]] = (),
    is_open: bool = False,
) -> Case:
    """Make a case; a tool of which the test names no schema gets one of the expected values' types."""
    tools = tools_of_calls(calls or [(NO_TOOL, {})], tools)
    written = tuple((name, json.dumps(arguments)) for name, arguments in calls)
    aside = "" if all(TOOL_NAME.fullmatch(tool["function"]["name"]) for tool in tools) else BAD_NAME
    return Case(source, template, answer, text, "", written, tools, set_aside=aside, is_open=is_open)


def tools_of_calls(
    calls: abc.Sequence[tuple[str, dict[str, Any]]], tools: abc.Sequence[dict[str, Any]] = ()
) -> tuple[dict[str, Any], ...]:
    """Return tools, and one for each call that is of none of them, with a schema of its arguments' types."""
    known = {tool["function"]["name"]: tool for tool in tools}
    for name, arguments in calls:
        properties = {key: {"type": JSON_TYPES.get(type(value), "null")} for key, value in arguments.items()}
        schema = {"type": "object", "properties": properties}
        function = {"name": name or NO_TOOL, "parameters": schema}
        known.setdefault(name or NO_TOOL, {"type": "function", "function": function})
    return tuple(known.values())
