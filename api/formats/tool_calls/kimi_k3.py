"""Kimi K3's calls: an element for each call, with an element for each argument and its type.

`<|open|>call tool="read" index="1"<|sep|>`, `<|open|>argument key="path" type="string"<|sep|>a.py` …

A string stands without quotes, any other value as JSON. Arguments whose schema is more than a property list
stand as one object in an element `json`, which mlx-lm's parser reads as well.
"""

import re
from collections import abc

from ..grammars.callable_tool import CallableTool
from ..grammars.free_text import text_until
from ..grammars.json_schema import Schema, dump_schema
from ..grammars.lark import Lark, literal
from ..grammars.properties import OUTER, any_order, is_property_list
from ..grammars.schema_kinds import possible_kinds, text_schemas
from ..grammars.without_tags import without_tags
from ..readers.whole_calls import WholeCalls
from .call_syntax import CallSyntax

NAME = re.compile(r"[\w.$-]+")
OPEN, SEP, CLOSE = "<|open|>", "<|sep|>", "<|close|>"
END = f"{CLOSE}argument{SEP}"


def _define_rule(lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
    call = lark.one_of([_call(lark, tool.name, tool.schema) for tool in tools])
    return lark.new(f"{call} (SPACE {call})*")


def _call(lark: Lark, name: str, schema: Schema) -> str:
    begin, close_head = lark.tag(f'{OPEN}call tool="{name}" index="'), lark.tag(f'"{SEP}')
    head = f"{begin} /[0-9]{{1,3}}/ {close_head} SPACE"
    end = lark.tag(f"{CLOSE}call{SEP}")
    if not schema.get("properties") and schema.keys() <= OUTER:
        return f"{head} {end}"
    if is_property_list(schema) and all(map(NAME.fullmatch, schema["properties"])):
        return f"{head} {any_order(lark, schema, _property, separator='', end=end)}"
    start, close = lark.tag(f'{OPEN}json type="object"{SEP}'), lark.tag(f"{CLOSE}json{SEP}")
    return f"{head} {start} {_json(lark, schema)} {close} SPACE {end}"


def _property(lark: Lark, name: str, schema: Schema) -> str:
    key, sep = f'{OPEN}argument key="{name}" type="', f'"{SEP}'
    texts = [text_until(lark, part, END, never=(OPEN, CLOSE, SEP)) for part in text_schemas(schema)]
    forms = [f"{lark.tag(f'{key}string{sep}')} {text} SPACE" for text in texts]
    others = possible_kinds(schema) - {"string"}
    if others:
        named = others | (
            {"number"} if "integer" in others else set()
        )  # as Kimi K3's template names integers
        kinds = " | ".join(map(literal, sorted(named)))
        value = f"{_json(lark, schema)} {lark.tag(END)} SPACE"
        forms.append(f"{lark.tag(key)} ({kinds}) {lark.tag(sep)} {value}")
    return f"({' | '.join(forms)})"


def _json(lark: Lark, schema: Schema) -> str:
    return lark.json(dump_schema(without_tags(schema, (OPEN, CLOSE, SEP))))


KIMI_K3 = CallSyntax("kimi_k3", WholeCalls, _define_rule)
