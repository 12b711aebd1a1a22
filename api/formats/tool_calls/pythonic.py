"""Calls in Python's syntax: `[read(path="a.py", limit=5), list()]`.

A value is JSON, without the escapes that mean something else in Python, or Python's own: strings in single
quotes, `True`, `False` and `None`, also in lists and dictionaries. Line breaks may stand in strings as they
are. A parameter whose name is no Python identifier cannot be written.
"""

import keyword
from collections import abc
from typing import Any
from unicodedata import is_normalized

from ...protocols import ToolParser
from ..grammars.callable_tool import CallableTool
from ..grammars.json_schema import ANY, NAMING, NUMBER, Schema, dump_schema
from ..grammars.lark import Lark, literal, pattern
from ..grammars.properties import any_order, listed_properties, property_schema
from ..grammars.schema_kinds import branches
from ..grammars.without_tags import without_tags
from ..json_text import dump
from ..readers.call_reader import CallReader
from ..readers.python_calls import read_python_calls
from ..readers.whole_calls import WholeCalls
from .call_syntax import CallSyntax

END = "<|tool_call_end|>"
ESCAPES = '"\\bfnrt'  # `\/` is two characters to Python, and `\ud83d` half of one
QUOTED = [r"""/'([^'\\]|\\[\\'"abfnrtv])*'/""", r"""/"([^"\\]|\\[\\'"abfnrtv])*"/"""]
LIST_KEYS = {"type", "items", "minItems", "maxItems"}
DICT_KEYS = {"type", "properties", "required", "additionalProperties"}
WORDS = {"boolean": '"True" | "False"', "null": '"None"'}


def _define_rule(lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
    values = _PythonValues(lark)
    call = lark.one_of([values.call(tool.name, listed_properties(tool.schema, _is_name)) for tool in tools])
    return lark.new(f'"[" {call} (COMMA {call})* "]"')


class _PythonValues:
    """Defines the rules for the values of calls. Each value may be written as JSON or in Python's way."""

    def __init__(self, lark: Lark) -> None:
        self._lark = lark
        no_end = rf"/(?s:.*){pattern(END)}(?s:.*)/"
        self._text = lark.one_of([lark.new(f"{text} & ~{no_end}", "QUOTED") for text in QUOTED])
        self._any = ""  # the rule for any value, once it is needed

    def call(self, name: str, schema: Schema) -> str:
        """Write the body of the rule for a call of one tool."""
        if not schema["properties"]:
            return literal(f"{name}()")
        closed = schema | {"additionalProperties": False}
        some = any_order(self._lark, closed, self._argument, separator="COMMA", end=literal(")"))
        return f"{literal(f'{name}(')} {some}"

    def _argument(self, _lark: Lark, name: str, schema: Schema) -> str:
        return f"{literal(f'{name}=')} {self._value(schema)}"

    def _entry(self, _lark: Lark, name: str, schema: Schema) -> str:
        quoted = f"({literal(literal(name))} | {literal(repr(name))})"
        return f"{quoted} COLON {self._value(schema)}"

    def _value(self, schema: Schema) -> str:
        if not schema.keys() - NAMING or schema.get("$ref") == ANY["$ref"]:
            return self._any_value()
        json = self._lark.json(dump_schema(without_tags(schema, (END,)), ESCAPES))
        return self._lark.one_of([json, *self._forms(schema)])

    def _forms(self, schema: Schema) -> list[str]:
        """List the forms of a value in Python's way, as far as a schema's keywords are known here."""
        keys = schema.keys() - NAMING
        if "anyOf" in keys and keys <= {"anyOf", "type"}:
            return [self._value(part) for part in branches(schema)]
        named = schema.get("type", ())
        kinds = {named} if isinstance(named, str) else set(named)
        forms = [WORDS[kind] for kind in sorted(kinds & WORDS.keys()) if keys == {"type"}]
        if "string" in kinds and keys == {"type"}:
            forms.append(self._text)
        if "array" in kinds and keys <= LIST_KEYS and isinstance(schema.get("items", {}), dict):
            forms.append(self._list(schema))
        if "object" in kinds and keys <= DICT_KEYS and schema.get("properties"):
            closed = listed_properties(schema, str.isprintable) | {"additionalProperties": False}
            some = any_order(self._lark, closed, self._entry, separator="COMMA", end='SPACE "}"')
            forms.append(f'"{{" SPACE {some}')
        elif "object" in kinds and keys <= DICT_KEYS and schema.get("additionalProperties", ANY) == ANY:
            forms.append(self._dict_of_any())
        return forms

    def _list(self, schema: Schema) -> str:
        item = self._value(property_schema(schema, schema.get("items", {})))
        least, most = schema.get("minItems", 0), schema.get("maxItems", "")
        if most == 0:
            return '"[" "]"'
        more = f"(COMMA {item}){{{max(least - 1, 0)},{most - 1 if most else ''}}}"
        some = f"{item} {more}" if least else f"({item} {more})?"
        return f'"[" SPACE {some} SPACE "]"'

    def _dict_of_any(self) -> str:
        entry = f"{self._text} COLON {self._any_value()}"
        return f'"{{" SPACE ({entry} (COMMA {entry})*)? SPACE "}}"'

    def _any_value(self) -> str:
        if not self._any:
            self._any = self._lark.name()
            scalars = self._lark.json(dump_schema(NUMBER))
            listed = f'"[" SPACE ({self._any} (COMMA {self._any})*)? SPACE "]"'
            words = ['"true" | "false" | "null"', *WORDS.values()]
            forms = [scalars, *words, self._text, listed, self._dict_of_any()]
            self._lark.rule(self._any, " | ".join(forms))
        return self._any


def _is_name(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and is_normalized("NFKC", name)


def _make_reader(_parser: ToolParser, tools: abc.Sequence[dict[str, Any]], has_end: bool) -> CallReader:
    return WholeCalls(read_python_calls, tools, has_end)


def _write(calls: abc.Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Write calls as the text between the tags."""
    written = [
        f"{name}({', '.join(f'{key}={_python(value)}' for key, value in arguments.items())})"
        for name, arguments in calls
    ]
    return f"[{', '.join(written)}]"


def _python(value: Any) -> str:
    """Write a value of JSON in Python's syntax, with double quotes."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{dump(key)}: {_python(part)}' for key, part in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_python, value))}]"
    return dump(value) if isinstance(value, str) else str(value)


PYTHONIC = CallSyntax("pythonic", _make_reader, _define_rule, _write)
