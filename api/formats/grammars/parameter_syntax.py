"""The grammar of calls that write each parameter as text between tags.

mlx-lm's parsers read a parameter by the type in its schema: strings are taken as they are, other values are
parsed as JSON. So a string may be any text up to the tag that ends it. No value can hold that tag, nor a tag
that ends the call or the body. Of a string's schema only `enum`, `const` and the lengths are enforced.
"""

import re
from collections import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .callable_tool import CallableTool
from .free_text import text_until
from .json_schema import Schema, dump_schema
from .lark import Lark, literal
from .properties import any_order, listed_properties
from .schema_kinds import listed_values, resolve
from .without_tags import without_tags

NAME = re.compile(r"[\w.$-]+")  # of a parameter; a tag with other characters may not be recognised


@dataclass(frozen=True, slots=True)
class ParameterSyntax:
    """How a format writes a call. NAME stands for the tool's name, KEY for a parameter's.

    head: begins a call. key: begins a parameter. close: ends a value. end: ends a call.
    is_text: whether a schema's values are written as text rather than as JSON.
    not_null: text may not be "null", which the parser would read as null.
    bare: a call without parameters, where the parser needs another form for it.
    repeats: one body may hold several calls.
    body_end: the end tag of the body, which ends the body even within a value.
    loose: line breaks in head, key and close may be left out: the parser takes both, and so do the models.
    """

    head: str
    key: str
    close: str
    end: str
    is_text: Callable[[Schema], bool]
    not_null: bool = False
    bare: str | None = None
    repeats: bool = False
    body_end: str = ""
    loose: bool = False

    @property
    def _not_in_values(self) -> list[str]:
        """The tags that would end a value too early, or its call, or the body."""
        tags = [self.close.strip(), self.end if self.repeats else "", self.body_end]
        return [tag for tag in tags if tag]

    def define_rule(self, lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
        """Define the rule for a call of one of the tools, or for several where a body may hold them."""
        call = lark.one_of(
            [self._call(lark, tool.name, listed_properties(tool.schema, NAME.fullmatch)) for tool in tools]
        )
        return lark.new(f"{call} (SPACE {call})*") if self.repeats else call

    def _call(self, lark: Lark, name: str, schema: Schema) -> str:
        head, end = self._tag(lark, self.head.replace("NAME", name)), lark.tag(self.end)
        bare = f"{head} {end}" if self.bare is None else literal(self.bare.replace("NAME", name))
        if not schema["properties"]:
            return bare
        some = any_order(lark, schema, self._parameter, separator="", end=end)
        if self.bare is None or schema.get("required"):
            return f"{head} {some}"
        return f"{head} {some} | {bare}"

    def _parameter(self, lark: Lark, name: str, schema: Schema) -> str:
        null = [r"/\s*(?i:null)\s*/"] if self.not_null else []
        is_text = self.is_text(schema)
        close = self.close.rstrip() if self.loose else self.close
        value = (
            text_until(lark, schema, close, self._not_in_values, null)
            if is_text
            else f"{self._json(lark, schema)} {lark.tag(close)}"
        )
        gap = f" {self._tag(lark, self.close[len(close) :])}" if len(close) < len(self.close) else ""
        return f"{self._tag(lark, self.key.replace('KEY', name))} {value}{gap}"

    def _tag(self, lark: Lark, text: str) -> str:
        """Write tags, with line breaks between them that may be left out where the format is loose."""
        if not self.loose:
            return lark.tag(text)
        return r" /\n?/ ".join(lark.tag(part) for part in text.split("\n"))

    def _json(self, lark: Lark, schema: Schema) -> str:
        schema = without_tags(schema, self._not_in_values)
        return lark.json(dump_schema(schema))


def named_text(schema: Schema) -> bool:
    """Whether a schema's type is `string`, the one form that some parsers look for."""
    return schema.get("type") == "string"


def untyped_text(schema: Schema) -> bool:
    """Whether a parser that reads only a schema's `type` takes its values for text."""
    return named_text(schema) or ("type" not in schema and not _only(resolve(schema), ("object", "array")))


def possible_text(schema: Schema) -> bool:
    """Whether any branch of a schema allows strings."""
    return not _only(schema, ("integer", "number", "boolean", "object", "array", "null"))


def _only(schema: Schema, kinds: abc.Sequence[str]) -> bool:
    """Whether a schema shows that all of its values have one of the types `kinds`."""
    named = schema.get("type")
    if named is not None:
        return all(kind in kinds for kind in (named if isinstance(named, list) else [named]))
    values = listed_values(schema)
    if values is not None:
        return not any(isinstance(value, str) for value in values)
    branches: list[Any] = schema.get("anyOf") or schema.get("allOf") or []
    return bool(branches) and all(isinstance(part, dict) and _only(part, kinds) for part in branches)
