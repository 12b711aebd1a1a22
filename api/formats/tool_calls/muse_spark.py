"""Muse Spark's calls: `<atem:invoke name="read"><atem:parameter name="path">a.py</atem:parameter>` ….

mlx-lm's parser ignores the schema: it reads a value as JSON if it can, else as text without the space around
it. So a string that is JSON of another type, or begins like a list or an object, stands in quotes.
"""

import json
import re
from collections import abc
from functools import partial

from ..grammars.callable_tool import CallableTool
from ..grammars.free_text import text_until
from ..grammars.json_schema import Schema, dump_schema
from ..grammars.lark import Lark
from ..grammars.properties import any_order, listed_properties
from ..grammars.schema_kinds import listed_values, possible_kinds, text_schemas
from ..grammars.without_tags import without_tags
from ..readers.parameter_calls import ParameterCalls, ParameterPatterns, parameter_parts
from .call_syntax import CallSyntax

PATTERNS = ParameterPatterns(
    ends=re.compile(r"<atem:invoke\b[^<>]*>|</atem:parameter>"),
    parts=parameter_parts(
        r"<atem:invoke\b",
        r'<atem:parameter\b[^>]*?\bname="(?P<key>[^"]+)"[^>]*?>',
        "</atem:parameter>",
    ),
)

NAME = re.compile(r"[\w.$-]+")
CLOSE, END = "</atem:parameter>", "</atem:function_calls>"
HOLDER = r'/\s*[\[{"](?s:.*)/'  # begins like a string, a list or an object of JSON
WORD = r"/\s*(true|false|null|NaN|-?Infinity)\s*/"
NUMBER = r"/\s*-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?\s*/"
BEGINS_SCALAR = r"/\s*(-|[0-9]|true|false|null)(?s:.*)/"  # excluded where the schema allows such values too
SPACED = (r"/[\s\x1c-\x1f](?s:.*)/", r"/(?s:.*)[\s\x1c-\x1f]/")


def _define_rule(lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
    calls = [_call(lark, tool.name, listed_properties(tool.schema, NAME.fullmatch)) for tool in tools]
    call = lark.one_of(calls)
    return lark.new(f"{call} (SPACE {call})*")


def _call(lark: Lark, name: str, schema: Schema) -> str:
    head, end = lark.tag(f'<atem:invoke name="{name}">'), lark.tag("</atem:invoke>")
    properties = any_order(lark, schema, _property, separator="", end=end) if schema["properties"] else end
    return f"{head} SPACE {properties}"


def _property(lark: Lark, name: str, schema: Schema) -> str:
    is_mixed = bool(possible_kinds(schema) - {"string"})
    texts = [text for part in text_schemas(schema) for text in _texts(lark, part, is_mixed)]
    forms = [*texts, f"{lark.json(dump_schema(without_tags(schema, (CLOSE, END))))} {lark.tag(CLOSE)}"]
    key = lark.tag(f'<atem:parameter name="{name}">')
    return f"{key} ({' | '.join(forms)}) SPACE"


def _texts(lark: Lark, schema: Schema, is_mixed: bool) -> list[str]:
    values = listed_values(schema)
    if values is not None:
        schema = {"enum": [value for value in values if isinstance(value, str) and _stays_text(value)]}
        return [text_until(lark, schema, CLOSE, never=(END,))] if schema["enum"] else []
    without = [HOLDER, BEGINS_SCALAR] if is_mixed else [HOLDER, WORD, NUMBER]
    without += SPACED if schema.get("minLength") else ()
    return [text_until(lark, schema, CLOSE, never=(END,), without=without)]


def _stays_text(value: str) -> bool:
    try:
        json.loads(value)
    except ValueError:
        return value == value.strip() and not value.startswith(("[", "{", '"'))
    return False


MUSE_SPARK = CallSyntax("muse_spark", partial(ParameterCalls, PATTERNS), _define_rule)
