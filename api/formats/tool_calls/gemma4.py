"""The grammar of Gemma 4's calls: `call:read{path:<|"|>a.py<|"|>,limit:5}`.

A value is JSON in other words: strings stand between marks of their own, in which nothing is escaped, and
names stand bare. mlx-lm's parser takes such names only where no space is around them. A name that is more
than letters stands in quotes, as JSON has it.
"""

import json
import re
from collections import abc
from collections.abc import Callable
from typing import Any

from ..grammars.free_text import text_until
from ..grammars.json_schema import NAMING, dump_schema
from ..grammars.lark import Lark, literal
from ..grammars.properties import any_order, listed_members
from ..grammars.schema_kinds import SCALARS, branches, listed_values, possible_kinds, resolve, scalar_schema

Schema = dict[str, Any]

BARE = re.compile(r"\w+")
NAME = re.compile(r'[^"\\{},:<\x00-\x1f]+')
QUOTE = '<|"|>'
NEVER = ("\x00", "<tool_call|>")  # mlx-lm's parser puts the one in place of strings; the other ends a passage
ITEM_END = ' "," '
ANY_NAME = r"/[a-zA-Z0-9_]{1,64}/"  # of a member that the schema does not name


def gemma4_calls(lark: Lark, tools: abc.Sequence[tuple[str, Schema]]) -> str:
    """Define the rule for a call."""
    calls = [f"{literal(f'call:{name}')} {_Values(lark).rule(schema)}" for name, schema in tools]
    return lark.one_of(calls)


class _Values:
    """Defines the rules for the values of one tool's schema."""

    def __init__(self, lark: Lark) -> None:
        self._lark = lark
        self._rule_of: dict[str, str] = {}  # by reference, "" of any value: both may hold themselves

    def rule(self, schema: Schema) -> str:
        """Define the rule for a value and return its name."""
        target = resolve(schema)
        key = schema["$ref"] if target is not schema else "" if not schema.keys() - NAMING else None
        if key is None:
            return self._lark.one_of(self._forms(schema))
        if key not in self._rule_of:
            name = self._rule_of[key] = self._lark.name()
            self._lark.rule(name, self.rule(target) if key else " | ".join(self._forms(schema)))
        return self._rule_of[key]

    def _forms(self, schema: Schema) -> list[str]:
        """List the bodies of a value; of what is said beside branches, only the types are kept to."""
        kinds = possible_kinds(schema)
        values = listed_values(schema)
        if values is not None:
            return [self._constant(value) for value in values if _is_sayable(value)] or ['"null"']
        if "anyOf" in schema:
            return [self.rule(part) for part in branches(schema)] or ['"null"']
        writers: dict[str, Callable[[Schema], str]] = {
            "string": self._text,
            "array": self._list,
            "object": self._object,
        }
        forms = [writers[kind](schema) for kind in sorted(kinds - SCALARS)]
        scalars = scalar_schema(schema)
        return [*forms, self._lark.json(dump_schema(scalars))] if scalars else forms or ['"null"']

    def _constant(self, value: Any) -> str:
        mark = self._lark.mark(QUOTE)
        if isinstance(value, str):
            return f"{mark} {literal(value)} {mark}" if value else f"{mark} {mark}"
        if isinstance(value, list):
            return f'"[" {ITEM_END.join(map(self._constant, value))} "]"'
        if isinstance(value, dict):
            members = [f"{_key(name)} {self._constant(part)}" for name, part in value.items()]
            return f'"{{" {ITEM_END.join(members)} "}}"'
        return literal(json.dumps(value))

    def _text(self, schema: Schema) -> str:
        return f"{self._lark.mark(QUOTE)} {text_until(self._lark, schema, QUOTE, never=NEVER)}"

    def _list(self, schema: Schema) -> str:
        first = [part if isinstance(part, dict) else {} for part in schema.get("prefixItems", ())]
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        items = schema.get("items", {})
        if first:
            return f'"[" {ITEM_END.join(_with(self, schema, part) for part in first)} "]"'
        if most == 0 or items is False:
            return '"[" "]"'
        return f'"[" {_repeated(_with(self, schema, items), least, most)} "]"'

    def _object(self, schema: Schema) -> str:
        listed = listed_members(schema, NAME.fullmatch) | {"additionalProperties": False}
        if listed["properties"]:
            some = any_order(self._lark, listed, self._member, separator=literal(","), end=literal("}"))
            return f'"{{" {some}'
        more = schema.get("additionalProperties", {})
        if more is False or schema.get("maxProperties") == 0:
            return '"{" "}"'
        member = self._lark.new(f'{ANY_NAME} ":" {_with(self, schema, more)}')
        least, most = schema.get("minProperties", 0), schema.get("maxProperties")
        return f'"{{" {_repeated(member, least, most)} "}}"'

    def _member(self, lark: Lark, name: str, schema: Schema) -> str:
        return f"{_key(name)} {self.rule(schema)}"


def _with(values: _Values, schema: Schema, part: Any) -> str:
    """Define the rule for a part of a schema, with the definitions that it may refer to."""
    definitions = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    return values.rule((part if isinstance(part, dict) else {}) | definitions)


def _repeated(item: str, least: int, most: int | None) -> str:
    """Write so many items with commas between them."""
    more = f'("," {item}){{{max(least - 1, 0)},{"" if most is None else most - 1}}}'
    return f"{item} {more}" if least else f"({item} {more})?"


def _key(name: str) -> str:
    return literal(f"{name}:" if BARE.fullmatch(name) else f'"{name}":')


def _is_sayable(value: Any) -> bool:
    if isinstance(value, str):
        return not any(mark in value for mark in (QUOTE, *NEVER))
    if isinstance(value, dict):
        return all(NAME.fullmatch(name) and _is_sayable(part) for name, part in value.items())
    return all(map(_is_sayable, value)) if isinstance(value, list) else True
