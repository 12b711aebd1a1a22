"""The grammar of calls that write each parameter as text between tags.

Where a parameter may be a text, any text up to the tag that ends it is allowed; other values are JSON, or
Python's words for true, false and null. No value can hold that tag, nor a tag that ends the call or the body.
Of a text's schema only `enum`, `const` and the lengths are enforced.
"""

import re
from collections import abc
from dataclasses import dataclass

from .callable_tool import CallableTool
from .free_text import text_until
from .json_schema import Schema, dump_schema
from .lark import Lark, literal, pattern
from .properties import any_order, listed_properties
from .schema_kinds import branches, listed_values, possible_kinds, resolve, text_schemas
from .without_tags import without_tags

NAME = re.compile(r"[\w.$-]+")  # of a parameter; a tag with other characters may not be recognised
WORDS = {"boolean": '"True" | "False"', "null": '"None"'}
TEXT = frozenset({"string"})
BOUNDS = frozenset({"minLength", "maxLength"})
CDATA, CDATA_END = "<![CDATA[", "]]>"


@dataclass(frozen=True, slots=True)
class ParameterSyntax:
    """How a format writes a call. NAME stands for the tool's name, KEY for a parameter's.

    head: begins a call. key: begins a parameter; KIND in it stands for "true" before a text and for "false"
    before JSON. close: ends a value; KEY may stand in it too. end: ends a call. The line breaks in them may
    be left out, but that of the head where `breaks_after_head`.
    bare: a call without parameters, where the format has another form for it.
    repeats: one body may hold several calls.
    body_end: the end tag of the body, which ends the body even within a value.
    cdata: a text that nothing bounds may stand as XML's `<![CDATA[` … `]]>`, in which it may hold `close`.
    """

    head: str
    key: str
    close: str
    end: str
    bare: str | None = None
    repeats: bool = False
    body_end: str = ""
    breaks_after_head: bool = False
    cdata: bool = False

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
        opening = self.head.replace("NAME", name)
        head = f'{lark.tag(opening.rstrip())} "\\n"' if self.breaks_after_head else _loose(lark, opening)
        head, end = f"{head} SPACE", lark.tag(self.end)
        bare = f"{head} {end}" if self.bare is None else literal(self.bare.replace("NAME", name))
        if not schema["properties"]:
            return bare
        some = any_order(lark, schema, self._parameter, separator="", end=end)
        if self.bare is None or schema.get("required"):
            return f"{head} {some}"
        return f"{head} {some} | {bare}"

    def _parameter(self, lark: Lark, name: str, schema: Schema) -> str:
        key, close = self.key.replace("KEY", name).rstrip(), self.close.replace("KEY", name)
        texts, others = self._texts(lark, close, schema), self._others(lark, close, schema)
        if "KIND" in key:
            forms = {key.replace("KIND", "true"): texts, key.replace("KIND", "false"): others}
        else:
            forms = {key: texts + others}
        return _any(f"{_loose(lark, tag)} {_any(values)} SPACE" for tag, values in forms.items() if values)

    def _texts(self, lark: Lark, close: str, schema: Schema) -> list[str]:
        """Write the forms of a value that is a text, each up to its end tag."""
        parts, tag, never = text_schemas(schema), close.strip(), self._not_in_values
        if any(map(_is_free, parts)):
            return self._free_texts(lark, tag)
        line = "LINE " if self.key.endswith("\n") else ""
        listed = [
            f"LINE {_any(texts)} LINE {lark.tag(tag)}" for part in parts if (texts := _listed(part, never))
        ]
        bounded = [part for part in parts if listed_values(part) is None]
        return listed + [line + text_until(lark, part, close.rstrip(), never) for part in bounded]

    def _free_texts(self, lark: Lark, tag: str) -> list[str]:
        never = self._not_in_values
        if not self.cdata:
            return [text_until(lark, {}, tag, never)]
        wrapped = text_until(lark, {}, f"{CDATA_END}{tag}", [CDATA_END, self.body_end])
        bare = text_until(lark, {}, tag, never, without=[rf"/\s*{pattern(CDATA)}(?s:.*)/"])
        return [bare, f"SPACE {literal(CDATA)} {wrapped}"]

    def _others(self, lark: Lark, close: str, schema: Schema) -> list[str]:
        """Write the forms of a value that is no text, up to its end tag; none where any text may be."""
        kinds, texts = possible_kinds(schema), text_schemas(schema)
        is_covered = any(map(_is_free, texts)) and "KIND" not in self.key
        if is_covered or not kinds - TEXT:
            return []
        schema = _without_text(schema) if texts else schema
        values = [lark.json(dump_schema(without_tags(schema, self._not_in_values)))]
        if listed_values(schema) is None:
            values += [WORDS[kind] for kind in sorted(kinds & WORDS.keys())]
        return [f"SPACE {_any(values)} SPACE {lark.tag(close.strip())}"]


def _any(forms: abc.Iterable[str]) -> str:
    return f"({' | '.join(forms)})"


def _loose(lark: Lark, text: str) -> str:
    """Write tags, with line breaks between them that may be left out."""
    return r" LINE ".join(lark.tag(part) for part in text.split("\n"))


def _is_free(schema: Schema) -> bool:
    """Whether a schema of a text bounds neither its words nor its length."""
    return listed_values(schema) is None and not schema.keys() & BOUNDS


def _listed(schema: Schema, never: abc.Sequence[str]) -> list[str]:
    """List the texts that a schema names, but for those that hold a tag."""
    values = [value for value in listed_values(schema) or () if isinstance(value, str)]
    return [literal(value) for value in values if not any(tag in value for tag in never)]


def _without_text(schema: Schema) -> Schema:
    """Return the schema of those values of a schema that are no texts."""
    schema = resolve(schema)
    values = listed_values(schema)
    if values is not None:
        return {"enum": [value for value in values if not isinstance(value, str)]}
    if "anyOf" in schema:
        return {"anyOf": [_without_text(part) for part in branches(schema) if possible_kinds(part) - TEXT]}
    return schema | {"type": sorted(possible_kinds(schema) - TEXT)}
