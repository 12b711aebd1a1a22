"""The grammar of Kimi K3's calls: elements of a tool, and in it of arguments with their types.

`<|open|>call tool="read" index="1"<|sep|>`, `<|open|>argument key="path" type="string"<|sep|>a.py` …

A text stands as it is, any other value as JSON. Arguments that are more than a list of members stand as one
object in an element `json`, which mlx-lm's parser reads as well.
"""

import re
from collections import abc
from typing import Any

from ..grammars.free_text import text_until
from ..grammars.json_schema import dump_schema
from ..grammars.lark import Lark, literal
from ..grammars.properties import OUTER, any_order, is_list_of_members
from ..grammars.schema_kinds import possible_kinds, text_schemas
from ..grammars.without_tags import without_marks

Schema = dict[str, Any]

NAME = re.compile(r"[\w.$-]+")
OPEN, SEP, CLOSE = "<|open|>", "<|sep|>", "<|close|>"
END = f"{CLOSE}argument{SEP}"


def kimi_k3_calls(lark: Lark, tools: abc.Sequence[tuple[str, Schema]]) -> str:
    """Define the rule for calls, one or more."""
    call = lark.one_of([_call(lark, name, schema) for name, schema in tools])
    return lark.new(f"{call} (SPACE {call})*")


def _call(lark: Lark, name: str, schema: Schema) -> str:
    begin, close_head = lark.mark(f'{OPEN}call tool="{name}" index="'), lark.mark(f'"{SEP}')
    head = f"{begin} /[0-9]{{1,3}}/ {close_head} SPACE"
    end = lark.mark(f"{CLOSE}call{SEP}")
    if not schema.get("properties") and schema.keys() <= OUTER:
        return f"{head} {end}"
    if is_list_of_members(schema) and all(map(NAME.fullmatch, schema["properties"])):
        return f"{head} {any_order(lark, schema, _member, separator='', end=end)}"
    start, close = lark.mark(f'{OPEN}json type="object"{SEP}'), lark.mark(f"{CLOSE}json{SEP}")
    return f"{head} {start} {_json(lark, schema)} {close} SPACE {end}"


def _member(lark: Lark, name: str, schema: Schema) -> str:
    key, sep = f'{OPEN}argument key="{name}" type="', f'"{SEP}'
    texts = [text_until(lark, part, END, never=(OPEN, CLOSE, SEP)) for part in text_schemas(schema)]
    forms = [f"{lark.mark(f'{key}string{sep}')} {text} SPACE" for text in texts]
    others = sorted(possible_kinds(schema) - {"string"})
    if others:
        kinds = " | ".join(map(literal, others))
        value = f"{_json(lark, schema)} {lark.mark(END)} SPACE"
        forms.append(f"{lark.mark(key)} ({kinds}) {lark.mark(sep)} {value}")
    return f"({' | '.join(forms)})"


def _json(lark: Lark, schema: Schema) -> str:
    return lark.json(dump_schema(without_marks(schema, (OPEN, CLOSE, SEP))))
