"""The grammar of Muse Spark's calls: `<atem:invoke name="read"><atem:parameter name="path">a.py`, and so on.

mlx-lm's parser takes a value for JSON where it can, whatever the schema says, and else for text without the
space around it. So a text that JSON would read otherwise, or that begins like a list or an object, stands in
JSON's quotes.
"""

import json
import re
from collections import abc
from typing import Any

from ..grammars.free_text import text_until
from ..grammars.json_schema import dump_schema
from ..grammars.lark import Lark
from ..grammars.properties import any_order, listed_members
from ..grammars.schema_kinds import listed_values, possible_kinds, text_schemas
from ..grammars.without_tags import without_marks

Schema = dict[str, Any]

NAME = re.compile(r"[\w.$-]+")
CLOSE, END = "</atem:parameter>", "</atem:function_calls>"
HOLDER = r'/\s*[\[{"](?s:.*)/'  # begins as JSON that holds something
WORD = r"/\s*(true|false|null|NaN|-?Infinity)\s*/"
NUMBER = r"/\s*-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?\s*/"
BEGINS_SCALAR = r"/\s*(-|[0-9]|true|false|null)(?s:.*)/"  # where such values may stand as well
SPACED = (r"/[\s\x1c-\x1f](?s:.*)/", r"/(?s:.*)[\s\x1c-\x1f]/")


def muse_spark_calls(lark: Lark, tools: abc.Sequence[tuple[str, Schema]]) -> str:
    """Define the rule for calls, one or more."""
    calls = [_call(lark, name, listed_members(schema, NAME.fullmatch)) for name, schema in tools]
    call = lark.one_of(calls)
    return lark.new(f"{call} (SPACE {call})*")


def _call(lark: Lark, name: str, schema: Schema) -> str:
    head, end = lark.mark(f'<atem:invoke name="{name}">'), lark.mark("</atem:invoke>")
    members = any_order(lark, schema, _member, separator="", end=end) if schema["properties"] else end
    return f"{head} SPACE {members}"


def _member(lark: Lark, name: str, schema: Schema) -> str:
    is_mixed = bool(possible_kinds(schema) - {"string"})
    texts = [text for part in text_schemas(schema) for text in _texts(lark, part, is_mixed)]
    forms = [*texts, f"{lark.json(dump_schema(without_marks(schema, (CLOSE, END))))} {lark.mark(CLOSE)}"]
    key = lark.mark(f'<atem:parameter name="{name}">')
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
