"""The grammars of calls that are not JSON: a parameter stands as text between marks of its own.

mlx-lm's parsers read a parameter by the type that its schema names: strings are taken as they stand, other
values as JSON. So strings are free here up to the mark that ends them, which they cannot hold in these
formats; of what a schema says of a string, only `enum`, `const` and the lengths are kept to.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .json_schema import dump_schema
from .lark import Lark, literal, pattern
from .members import any_order, listed_members

Schema = dict[str, Any]

NAME = re.compile(r"[\w.$-]+")  # of a parameter; marks could not be told from others


@dataclass(frozen=True, slots=True)
class TextSyntax:
    """How a format writes a call. NAME stands for the tool's name, KEY for a parameter's.

    is_text: whether a value of a schema stands as text rather than as JSON.
    not_null: text that spells null would be read as null.
    bare: how a call without parameters is written, where its parser wants that to be otherwise.
    repeats: one passage may hold several calls.
    """

    head: str
    key: str
    close: str  # ends a value
    end: str
    is_text: Callable[[Schema], bool]
    not_null: bool = False
    bare: str | None = None
    repeats: bool = False

    def calls(self, lark: Lark, tools: Sequence[tuple[str, Schema]]) -> str:
        """Define the rule for a call of one of the tools, or for several where a passage may hold them."""
        call = lark.one_of(
            [self._call(lark, name, listed_members(schema, NAME.fullmatch)) for name, schema in tools]
        )
        return lark.new(f"{call} (SPACE {call})*") if self.repeats else call

    def _call(self, lark: Lark, name: str, schema: Schema) -> str:
        head, end = lark.mark(self.head.replace("NAME", name)), lark.mark(self.end)
        bare = f"{head} {end}" if self.bare is None else literal(self.bare.replace("NAME", name))
        if not schema["properties"]:
            return bare
        some = any_order(lark, schema, self._member, separator="", end=end)
        if self.bare is None or schema.get("required"):
            return f"{head} {some}"
        return f"{head} {some} | {bare}"

    def _member(self, lark: Lark, name: str, schema: Schema) -> str:
        value = self._text(lark, schema) if self.is_text(schema) else self._json(lark, schema)
        return f"{lark.mark(self.key.replace('KEY', name))} {value}"

    def _json(self, lark: Lark, schema: Schema) -> str:
        return f"{lark.json(dump_schema(schema))} {lark.mark(self.close)}"

    def _text(self, lark: Lark, schema: Schema) -> str:
        """Define the rule for a text and the mark that ends it."""
        values = _values(schema)
        if values is not None:
            texts = [value for value in values if isinstance(value, str) and self.close.strip() not in value]
            return f"({' | '.join(map(literal, texts)) or literal('')}) {lark.mark(self.close)}"
        least, most = schema.get("minLength", 0), schema.get("maxLength", "")
        without = [f"/(?s:.*){pattern(self.close.strip())}(?s:.*)/"]
        without += [r"/\s*(?i:null)\s*/"] if self.not_null else []
        text = f"/(?s:.{{{least},{most}}})/ & " + " & ".join(f"~{part}" for part in without)
        name = lark.new(text, "TEXT")
        if lark.is_marked(self.close):
            return f"{name} {lark.mark(self.close)}"
        # The first mark ends the text: a lexeme that is not lazy would run on.
        return lark.new(lark.new(f"{name} {literal(self.close)}", "VALUE"), options="[lazy]")


def named_text(schema: Schema) -> bool:
    """Whether a schema calls its values strings, in the one way that some parsers look for."""
    return schema.get("type") == "string"


def untyped_text(schema: Schema) -> bool:
    """Whether a parser that knows a value's type only by the word takes it for text."""
    return named_text(schema) or ("type" not in schema and not _only(_resolved(schema), ("object", "array")))


def _resolved(schema: Schema) -> Schema:
    """Follow a reference to a definition."""
    for key in ("$defs", "definitions"):
        name = schema.get("$ref", "").removeprefix(f"#/{key}/")
        if name in schema.get(key, {}):
            return {**schema[key][name], key: schema[key]}
    return schema


def possible_text(schema: Schema) -> bool:
    """Whether a value may be a string, all branches looked at."""
    return not _only(schema, ("integer", "number", "boolean", "object", "array", "null"))


def _values(schema: Schema) -> list[Any] | None:
    """List the values that a schema lists, None when it does not."""
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _only(schema: Schema, kinds: Sequence[str]) -> bool:
    """Whether all values of a schema are known to be of some kinds."""
    named = schema.get("type")
    if named is not None:
        return all(kind in kinds for kind in (named if isinstance(named, list) else [named]))
    values = _values(schema)
    if values is not None:
        return not any(isinstance(value, str) for value in values)
    branches: list[Any] = schema.get("anyOf") or schema.get("allOf") or []
    return bool(branches) and all(isinstance(part, dict) and _only(part, kinds) for part in branches)


QWEN3_CODER = TextSyntax(
    "<function=NAME>\n", "<parameter=KEY>\n", "\n</parameter>\n", "</function>", untyped_text, not_null=True
)
GLM = TextSyntax("NAME\n", "<arg_key>KEY</arg_key>\n<arg_value>", "</arg_value>\n", "", named_text)
LONGCAT = TextSyntax(
    "NAME\n",
    "<longcat_arg_key>KEY</longcat_arg_key>\n<longcat_arg_value>",
    "</longcat_arg_value>\n",
    "",
    named_text,
    bare='{"name": "NAME", "arguments": {}}',
)
MINIMAX = TextSyntax(
    '<invoke name="NAME">\n',
    '<parameter name="KEY">',
    "</parameter>\n",
    "</invoke>",
    possible_text,
    not_null=True,
    repeats=True,
)
MINICPM = TextSyntax('"NAME">', '<param name="KEY">', "</param>", "", possible_text, not_null=True)
