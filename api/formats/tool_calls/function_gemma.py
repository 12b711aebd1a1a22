"""FunctionGemma's calls: `call:read{path:<escape>a.py<escape>,limit:5}`.

mlx-lm's parser ends a call at the first closing brace and an unquoted value at the first comma. So strings
hold no closing brace, and parameters that can only be lists or objects cannot be written.
"""

import re
from collections import abc

from ..grammars.callable_tool import CallableTool
from ..grammars.free_text import text_until
from ..grammars.json_schema import Schema, dump_schema
from ..grammars.lark import Lark, literal
from ..grammars.properties import any_order, listed_properties, property_schema
from ..grammars.schema_kinds import SCALARS, flat_branches, possible_kinds, scalar_schema
from ..readers.whole_calls import WholeCalls
from .call_syntax import CallSyntax

NAME = re.compile(r"\w[\w.$-]*")
QUOTE, END = "<escape>", "<end_function_call>"


def _define_rule(lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
    return lark.one_of(
        [_call(lark, tool.name, listed_properties(tool.schema, NAME.fullmatch)) for tool in tools]
    )


def _call(lark: Lark, name: str, schema: Schema) -> str:
    values = {
        key: value
        for key, value in schema["properties"].items()
        if possible_kinds(property_schema(schema, value)) & {*SCALARS, "string"}
    }
    head = literal(f"call:{name}{{")
    if not values:
        return f'{head} "}}"'
    required = [key for key in schema["required"] if key in values]
    writable = schema | {"properties": values, "required": required, "additionalProperties": False}
    return f"{head} {any_order(lark, writable, _property, separator=literal(','), end=literal('}'))}"


def _property(lark: Lark, name: str, schema: Schema) -> str:
    forms = [form for part in flat_branches(schema) for form in _forms(lark, part)]
    return f"{literal(f'{name}:')} ({' | '.join(forms)})"


def _forms(lark: Lark, schema: Schema) -> list[str]:
    """List the forms of a value of a schema without branches, as the bodies of rules."""
    kinds = possible_kinds(schema)
    forms = [_text(lark, schema)] if "string" in kinds else []
    scalars = scalar_schema(schema)
    return forms if scalars is None else [*forms, lark.json(dump_schema(scalars))]


def _text(lark: Lark, schema: Schema) -> str:
    return f"{lark.tag(QUOTE)} {text_until(lark, schema, QUOTE, never=('}', END))}"


FUNCTION_GEMMA = CallSyntax("function_gemma", WholeCalls, _define_rule)
