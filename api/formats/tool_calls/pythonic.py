"""Calls in Python's syntax: `[read(path="a.py", limit=5), list()]`.

mlx-lm's parser reads them with Python's own parser. A value is JSON, without the escapes that mean something
else in Python; `True`, `False`, `None` and strings in single quotes are allowed as whole values. A parameter
whose name is no Python identifier cannot be written.
"""

import keyword
from collections import abc
from typing import Any
from unicodedata import is_normalized

from ..grammars.callable_tool import CallableTool
from ..grammars.json_schema import Schema, dump_schema
from ..grammars.lark import Lark, literal, pattern
from ..grammars.properties import any_order, listed_properties
from ..grammars.without_tags import without_tags
from ..json_text import dump
from ..readers.whole_calls import WholeCalls
from .call_syntax import CallSyntax

END = "<|tool_call_end|>"
ESCAPES = '"\\bfnrt'  # `\/` is two characters to Python, and `\ud83d` half of one
QUOTED = r"""/'([^'\\\x00-\x1f]|\\[\\'"bfnrt])*'/"""
PLAIN = {"type", "title", "description", "default", "examples"}  # keys of a schema that bounds no text
WORDS = {"boolean": '"True" | "False"', "null": '"None"'}


def _define_rule(lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
    call = lark.one_of([_call(lark, tool.name, listed_properties(tool.schema, _is_name)) for tool in tools])
    return lark.new(f'"[" {call} (COMMA {call})* "]"')


def _call(lark: Lark, name: str, schema: Schema) -> str:
    if not schema["properties"]:
        return literal(f"{name}()")
    closed = schema | {"additionalProperties": False}
    return f"{literal(f'{name}(')} {any_order(lark, closed, _property, separator='COMMA', end=literal(')'))}"


def _property(lark: Lark, name: str, schema: Schema) -> str:
    values = [lark.json(dump_schema(without_tags(schema, (END,)), ESCAPES))]
    kinds = _kinds(schema)
    values += [WORDS[kind] for kind in sorted(kinds) if kind in WORDS]
    if "string" in kinds and schema.keys() <= PLAIN:
        no_end = rf"/(?s:.*){pattern(END)}(?s:.*)/"
        values.append(lark.new(f"{QUOTED} & ~{no_end}", "QUOTED"))
    return f"{literal(f'{name}=')} ({' | '.join(values)})"


def _is_name(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and is_normalized("NFKC", name)


def _kinds(schema: Any) -> set[str]:
    """Return the types of which a schema allows every value."""
    if not isinstance(schema, dict) or schema.keys() & {"enum", "const", "allOf", "$ref"}:
        return set()
    kinds = schema.get("type")
    if "anyOf" in schema:
        return set() if kinds else {kind for part in schema["anyOf"] for kind in _kinds(part)}
    return set(kinds) if isinstance(kinds, list) else {str(kinds)}


def _write(calls: abc.Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Write calls as the text between the tags."""
    written = [
        f"{name}({', '.join(f'{key}={_python(value)}' for key, value in arguments.items())})"
        for name, arguments in calls
    ]
    return f"[{', '.join(written)}]"


def _python(value: Any) -> str:
    """Write a value of JSON in Python's syntax, with double quotes."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{dump(key)}: {_python(part)}' for key, part in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_python, value))}]"
    return dump(value) if isinstance(value, str) else str(value)


PYTHONIC = CallSyntax("pythonic", WholeCalls, _define_rule, _write)
