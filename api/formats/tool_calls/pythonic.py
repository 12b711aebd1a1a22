"""The grammar of calls in Python's words: `[read(path="a.py", limit=5), list()]`.

mlx-lm has Python read them. A value is JSON, without the escapes that Python reads otherwise; `True`, `False`
and `None` are also taken where they stand alone. Names that Python does not take for one cannot be written.
"""

import keyword
from collections import abc
from typing import Any
from unicodedata import is_normalized

from ..grammars.json_schema import dump_schema
from ..grammars.lark import Lark, literal
from ..grammars.properties import any_order, listed_members
from ..grammars.without_tags import without_marks

Schema = dict[str, Any]

END = "<|tool_call_end|>"
ESCAPES = '"\\bfnrt'  # `\/` is two characters to Python, and `\ud83d` half of one
WORDS = {"boolean": '"True" | "False"', "null": '"None"'}


def pythonic_calls(lark: Lark, tools: abc.Sequence[tuple[str, Schema]]) -> str:
    """Define the rule for a list of calls."""
    call = lark.one_of([_call(lark, name, listed_members(schema, _is_name)) for name, schema in tools])
    return lark.new(f'"[" {call} (COMMA {call})* "]"')


def _call(lark: Lark, name: str, schema: Schema) -> str:
    if not schema["properties"]:
        return literal(f"{name}()")
    members = schema | {"additionalProperties": False}
    return f"{literal(f'{name}(')} {any_order(lark, members, _member, separator='COMMA', end=literal(')'))}"


def _member(lark: Lark, name: str, schema: Schema) -> str:
    values = [lark.json(dump_schema(without_marks(schema, (END,)), ESCAPES))]
    values += [WORDS[kind] for kind in sorted(_kinds(schema)) if kind in WORDS]
    return f"{literal(f'{name}=')} ({' | '.join(values)})"


def _is_name(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and is_normalized("NFKC", name)


def _kinds(schema: Any) -> set[str]:
    """List the types of which a schema takes every value."""
    if not isinstance(schema, dict) or schema.keys() & {"enum", "const", "allOf", "$ref"}:
        return set()
    kinds = schema.get("type")
    if "anyOf" in schema:
        return set() if kinds else {kind for part in schema["anyOf"] for kind in _kinds(part)}
    return set(kinds) if isinstance(kinds, list) else {str(kinds)}
