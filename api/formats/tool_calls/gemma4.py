"""Gemma 4's calls: `call:read{path:<|"|>a.py<|"|>,limit:5}`.

A value is JSON with two differences: strings stand between `<|"|>` tags, without escapes, and names of word
characters stand without quotes and, for mlx-lm's parser, without space around them. Other names stand in
quotes, as in JSON.
"""

import json
import re
from collections import abc
from collections.abc import Callable
from typing import Any

from ...protocols import ToolParser
from ..grammars.callable_tool import CallableTool
from ..grammars.free_text import text_until
from ..grammars.json_schema import BOUNDS, NAMING, NUMBER, Schema, dump_schema
from ..grammars.lark import Lark, literal
from ..grammars.properties import any_order, listed_properties
from ..grammars.schema_kinds import (
    SCALARS,
    branches,
    listed_values,
    possible_kinds,
    resolve,
    scalar_schema,
    with_definitions,
)
from ..json_text import is_json
from ..readers.call_reader import BodyResult, CallReader
from ..readers.whole_calls import WholeCalls
from .call_syntax import CallSyntax

BARE = re.compile(r"\w+")
STRING = r'("(?:[^"\\]|\\.)*+(?:"|\\?\Z))'  # up to the text's end, once, where its quote is not closed
BESIDE_SIGNS = [
    re.compile(rf"{STRING}|{space}", re.S) for space in (r"([{}\[\],:])\s++", r"(?<!\s)\s++([{}\[\],:])")
]
LOST_WORD = re.compile(r"\A\s*:")
BRACE = re.compile(r"[{}]")
HEAD = re.compile(r"\s*(?:<\|tool_call>\s*)?call:[\w-]+\s*\{")
NAME = re.compile(r'[^"\\{},:<\x00-\x1f]+')
QUOTE = '<|"|>'
NEVER = ("\x00", "<tool_call|>")  # mlx-lm's parser replaces strings by the first; the second ends the body
EXPONENT = r"/-?(0|[1-9][0-9]*)(\.[0-9]+)?[eE][+-]?[0-9]{1,2}/"  # which JSON between two bounds lacks
ITEM_END = ' "," SPACE '
ANY_NAME = r"/[a-zA-Z0-9_]{1,64}/"  # of a property that the schema does not name


def _define_rule(lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
    calls = [f"{literal(f'call:{tool.name}')} {_Values(lark).rule(tool.schema)}" for tool in tools]
    return lark.one_of(calls)


class _Values:
    """Defines the rules for the values of one tool's schema."""

    def __init__(self, lark: Lark) -> None:
        self._lark = lark
        self._rule_of: dict[str, str] = {}  # by reference, "" for any value; these rules may be recursive

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
        """List the forms of a value, as the bodies of rules. Beside `anyOf`, only `type` is enforced."""
        kinds = possible_kinds(schema)
        values = listed_values(schema)
        if values is not None:
            return [self._constant(value) for value in values if _can_write(value)] or ['"null"']
        if "anyOf" in schema:
            return [self.rule(part) for part in branches(schema)] or ['"null"']
        writers: dict[str, Callable[[Schema], str]] = {
            "string": self._text,
            "array": self._list,
            "object": self._object,
        }
        forms = [writers[kind](schema) for kind in sorted(kinds - SCALARS)]
        scalars = scalar_schema(schema)
        bounds = {key for key in BOUNDS | {"multipleOf"} if key in schema and schema[key] != NUMBER.get(key)}
        if "number" in kinds and not bounds:
            forms.append(EXPONENT)
        return [*forms, self._lark.json(dump_schema(scalars))] if scalars else forms or ['"null"']

    def _constant(self, value: Any) -> str:
        quote = self._lark.tag(QUOTE)
        if isinstance(value, str):
            return f"{quote} {literal(value)} {quote}" if value else f"{quote} {quote}"
        if isinstance(value, list):
            return f'"[" {ITEM_END.join(map(self._constant, value))} "]"'
        if isinstance(value, dict):
            properties = [f"{_key(name)} {self._constant(part)}" for name, part in value.items()]
            return f'"{{" {ITEM_END.join(properties)} "}}"'
        return literal(json.dumps(value))

    def _text(self, schema: Schema) -> str:
        return f"{self._lark.tag(QUOTE)} {text_until(self._lark, schema, QUOTE, never=NEVER)}"

    def _list(self, schema: Schema) -> str:
        first = [part if isinstance(part, dict) else {} for part in schema.get("prefixItems", ())]
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        items = schema.get("items", {})
        if first:
            return f'"[" SPACE {ITEM_END.join(self._part(schema, part) for part in first)} SPACE "]"'
        if most == 0 or items is False:
            return '"[" "]"'
        return f'"[" SPACE {_repeated(self._part(schema, items), least, most)} SPACE "]"'

    def _object(self, schema: Schema) -> str:
        listed = listed_properties(schema, NAME.fullmatch) | {"additionalProperties": False}
        if listed["properties"]:
            some = any_order(self._lark, listed, self._property, separator='"," SPACE', end='SPACE "}"')
            return f'"{{" SPACE {some}'
        more = schema.get("additionalProperties", {})
        if more is False or schema.get("maxProperties") == 0:
            return '"{" "}"'
        entry = self._lark.new(f'{ANY_NAME} ":" {self._part(schema, more)}')
        least, most = schema.get("minProperties", 0), schema.get("maxProperties")
        return f'"{{" SPACE {_repeated(entry, least, most)} SPACE "}}"'

    def _part(self, schema: Schema, part: Any) -> str:
        """Define the rule for a part of `schema`; a part that is no object allows any value."""
        return self.rule(with_definitions(schema, part if isinstance(part, dict) else {}))

    def _property(self, lark: Lark, name: str, schema: Schema) -> str:
        return f"{_key(name)} {self.rule(schema)}"


def _repeated(item: str, least: int, most: int | None) -> str:
    """Write `least` to `most` items with commas between them."""
    more = f'("," SPACE {item}){{{max(least - 1, 0)},{"" if most is None else most - 1}}}'
    return f"{item} {more}" if least else f"({item} {more})?"


def _key(name: str) -> str:
    return literal(f"{name}:" if BARE.fullmatch(name) else f'"{name}":')


def _can_write(value: Any) -> bool:
    if isinstance(value, str):
        return not any(tag in value for tag in (QUOTE, *NEVER))
    if isinstance(value, dict):
        return all(NAME.fullmatch(name) and _can_write(part) for name, part in value.items())
    return all(map(_can_write, value)) if isinstance(value, list) else True


def _make_reader(parser: ToolParser, tools: abc.Sequence[dict[str, Any]], has_end: bool) -> CallReader:
    """Make a reader by mlx-lm's parser.

    Models sometimes lose the word before the first colon, or write lists and objects in several lines.
    """
    return _Gemma4Calls(lambda text, known: parser(_without_space(_with_word(text)), known), tools, has_end)


class _Gemma4Calls(WholeCalls):
    """Reads calls. A body of nothing but whole ones is whole without its end tag as well."""

    def end(self, complete: bool) -> BodyResult:
        """Parse the body."""
        text = "".join(self._texts).strip()
        return super().end(complete or is_json(text) or _is_calls(_with_word(text)))


def _is_calls(text: str) -> bool:
    """Whether a text is calls alone, of which the last one has closed its braces."""
    parts = text.split(QUOTE)
    outside = "".join(parts[::2])
    depth = start = 0  # start: of the text before the next brace
    for brace in BRACE.finditer(outside):
        if not depth and not HEAD.fullmatch(outside, start, brace.end()):
            return False
        depth += 1 if brace[0] == "{" else -1
        start = brace.end()
    return len(parts) % 2 == 1 and 0 < start == len(outside) and not depth


def _with_word(text: str) -> str:
    return LOST_WORD.sub("call:", text)


def _without_space(text: str) -> str:
    """Return a call without space beside the signs between values, which mlx-lm's parser does not read."""
    parts = text.split(QUOTE)
    for space in BESIDE_SIGNS:
        parts[::2] = [space.sub(lambda found: found[1] or found[2], part) for part in parts[::2]]
    return QUOTE.join(parts)


GEMMA4 = CallSyntax("gemma4", _make_reader, _define_rule)
