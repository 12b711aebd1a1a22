"""The grammars of calls that are not JSON: a parameter stands as text between marks of its own.

mlx-lm's parsers read a parameter by the type that its schema names: strings are taken as they stand, other
values as JSON. So strings are free here up to the mark that ends them, which no value can hold in these
formats, no more than the mark that ends the call; of what a schema says of a string, only `enum`, `const`
and the lengths are kept to.
"""

import re
from collections import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .free_text import text_until
from .json_schema import dump_schema
from .lark import Lark, literal
from .properties import any_order, listed_members
from .schema_kinds import listed_values, resolve
from .without_tags import without_marks

Schema = dict[str, Any]

NAME = re.compile(r"[\w.$-]+")  # of a parameter; marks could not be told from others


@dataclass(frozen=True, slots=True)
class TextSyntax:
    """How a format writes a call. NAME stands for the tool's name, KEY for a parameter's.

    is_text: whether a value of a schema stands as text rather than as JSON.
    not_null: text that spells null would be read as null.
    bare: how a call without parameters is written, where its parser wants that to be otherwise.
    repeats: one passage may hold several calls.
    passage_end: the mark that ends a passage, wherever it stands.
    """

    head: str
    key: str
    close: str  # ends a value
    end: str
    is_text: Callable[[Schema], bool]
    not_null: bool = False
    bare: str | None = None
    repeats: bool = False
    passage_end: str = ""

    @property
    def _not_in_values(self) -> list[str]:
        """The marks that would end a value, its call or the passage."""
        marks = [self.close.strip(), self.end if self.repeats else "", self.passage_end]
        return [mark for mark in marks if mark]

    def calls(self, lark: Lark, tools: abc.Sequence[tuple[str, Schema]]) -> str:
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
        null = [r"/\s*(?i:null)\s*/"] if self.not_null else []
        is_text = self.is_text(schema)
        value = (
            text_until(lark, schema, self.close, self._not_in_values, null)
            if is_text
            else self._json(lark, schema)
        )
        return f"{lark.mark(self.key.replace('KEY', name))} {value}"

    def _json(self, lark: Lark, schema: Schema) -> str:
        schema = without_marks(schema, self._not_in_values)
        return f"{lark.json(dump_schema(schema))} {lark.mark(self.close)}"


def named_text(schema: Schema) -> bool:
    """Whether a schema calls its values strings, in the one way that some parsers look for."""
    return schema.get("type") == "string"


def untyped_text(schema: Schema) -> bool:
    """Whether a parser that knows a value's type only by the word takes it for text."""
    return named_text(schema) or ("type" not in schema and not _only(resolve(schema), ("object", "array")))


def possible_text(schema: Schema) -> bool:
    """Whether a value may be a string, all branches looked at."""
    return not _only(schema, ("integer", "number", "boolean", "object", "array", "null"))


def _only(schema: Schema, kinds: abc.Sequence[str]) -> bool:
    """Whether all values of a schema are known to be of some kinds."""
    named = schema.get("type")
    if named is not None:
        return all(kind in kinds for kind in (named if isinstance(named, list) else [named]))
    values = listed_values(schema)
    if values is not None:
        return not any(isinstance(value, str) for value in values)
    branches: list[Any] = schema.get("anyOf") or schema.get("allOf") or []
    return bool(branches) and all(isinstance(part, dict) and _only(part, kinds) for part in branches)


QWEN3_CODER = TextSyntax(
    "<function=NAME>\n",
    "<parameter=KEY>\n",
    "\n</parameter>\n",
    "</function>",
    untyped_text,
    not_null=True,
    passage_end="</tool_call>",
)
GLM = TextSyntax(
    "NAME\n",
    "<arg_key>KEY</arg_key>\n<arg_value>",
    "</arg_value>\n",
    "",
    named_text,
    passage_end="</tool_call>",
)
LONGCAT = TextSyntax(
    "NAME\n",
    "<longcat_arg_key>KEY</longcat_arg_key>\n<longcat_arg_value>",
    "</longcat_arg_value>\n",
    "",
    named_text,
    bare='{"name": "NAME", "arguments": {}}',
    passage_end="</longcat_tool_call>",
)
MINIMAX = TextSyntax(
    '<invoke name="NAME">\n',
    '<parameter name="KEY">',
    "</parameter>\n",
    "</invoke>",
    possible_text,
    not_null=True,
    repeats=True,
    passage_end="</minimax:tool_call>",
)
MINICPM = TextSyntax(
    '"NAME">',
    '<param name="KEY">',
    "</param>",
    "",
    possible_text,
    not_null=True,
    passage_end="</function>",
)
