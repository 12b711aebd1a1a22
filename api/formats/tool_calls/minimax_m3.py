"""MiniMax M3's calls: an element for each argument, in which lists and objects are elements again.

`<invoke name="read">`, `<path>a.py</path>`, `<lines><item>1</item></lines>`, each tag behind a mark. A schema
decides what an element stands for.
"""

import re
from collections import abc
from typing import Any

from ...protocols import ToolParser
from ..grammars.element_syntax import ElementSyntax
from ..grammars.schema_kinds import KINDS, flat_branches, with_definitions
from ..readers.call_reader import CallReader
from ..readers.parameter_values import kinds_of, read_value, with_any_of
from ..readers.whole_calls import WholeCalls
from .call_syntax import CallSyntax

MARK = "]<]minimax[>["
CALL = re.compile(rf'{re.escape(MARK)}<invoke name="([^"<>]+)">(.*?){re.escape(MARK)}</invoke>', re.DOTALL)
TAG = re.compile(rf"{re.escape(MARK)}<(/?)([^<>/]+)>")
SYNTAX = ElementSyntax(
    head=f'{MARK}<invoke name="NAME">',
    key=f"{MARK}<KEY>",
    close=f"{MARK}</KEY>\n",
    end=f"{MARK}</invoke>",
    repeats=True,
    mark=MARK[1:],
)


def _make_reader(_parser: ToolParser, tools: abc.Sequence[dict[str, Any]], has_end: bool) -> CallReader:
    return WholeCalls(_parse, tools, has_end)


def _parse(text: str, tools: Any) -> list[dict[str, Any]]:
    """Read the calls of a body. Raises ValueError where there is none."""
    schemas = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
    calls = [
        {"name": name, "arguments": _object(_elements(inner), schemas.get(name, {}))}
        for name, inner in CALL.findall(text)
    ]
    if not calls:
        raise ValueError("no call")
    return calls


def _elements(text: str) -> list[tuple[str, str]]:
    """List a text's outermost elements, each with its name and what stands in it."""
    found: list[tuple[str, str]] = []
    depth, name, start = 0, "", 0
    for tag in TAG.finditer(text):
        if not depth:
            name, start = tag[2], tag.end()
        if tag[2] == name:
            depth += -1 if tag[1] else 1
            if not depth:
                found.append((name, text[start : tag.start()]))
    return found


def _object(elements: list[tuple[str, str]], schema: Any) -> dict[str, Any]:
    return {name: _value(text, _part(schema, "properties", name)) for name, text in elements}


def _value(text: str, schema: Any) -> Any:
    """Return what an element stands for: a text, if its schema allows one, even if it holds elements."""
    kinds = kinds_of(schema)
    elements = _elements(text)
    if not text.strip() and "string" not in kinds and kinds & {"array", "object"}:
        return [] if "array" in kinds else {}
    if not elements or ("string" in kinds and kinds != KINDS):
        return read_value(text, kinds)
    if "array" in kinds and all(name == "item" for name, _ in elements):
        return [_value(inner, _part(schema, "items", None)) for _, inner in elements]
    return _object(elements, schema)


def _part(schema: Any, key: str, name: str | None) -> Any:
    """Return the schema of a list's items or of an object's property, from the branch that has it."""
    for branch in flat_branches(with_any_of(schema)) if isinstance(schema, dict) else ():
        part = branch.get(key)
        part = part.get(name) if name is not None and isinstance(part, dict) else part
        if isinstance(part, dict):
            return with_definitions(branch, part)
    return {}


MINIMAX_M3 = CallSyntax("minimax_m3", _make_reader, SYNTAX.define_rule)
