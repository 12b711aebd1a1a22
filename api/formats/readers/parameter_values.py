"""Reads the value of a parameter that stands between tags: the type that the schema names decides."""

import ast
import json
from collections.abc import Callable
from typing import Any

from ..grammars.schema_kinds import KINDS, possible_kinds, with_definitions
from .parsed_calls import clean

PYTHON_TYPES = {"boolean": (bool,), "integer": (int,), "number": (int, float), "string": (str,)}
PYTHON_TYPES |= {"object": (dict,), "array": (list,), "null": (type(None),)}

TEXT = frozenset({"string"})
LENIENT = json.JSONDecoder(strict=False)
WORDS = {"true": True, "false": False, "null": None, "none": None}


def parameter_kinds(function: dict[str, Any]) -> dict[str, frozenset[str]]:
    """Return the types that a tool's parameters may have, by name; a schema that says nothing allows any."""
    parameters: Any = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    if not isinstance(properties, dict):
        return {}
    return {name: kinds_of(with_definitions(parameters, schema)) for name, schema in properties.items()}


def read_value(text: str, kinds: frozenset[str]) -> Any:
    """Return the value that a text stands for: JSON of one of `kinds`, else the text.

    Where no text is allowed, Python's words and lists are read too.
    """
    if kinds == TEXT:
        return clean(text)
    try:
        value = clean(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return clean(text) if "string" in kinds else _loose_value(text)
    if "integer" in kinds and "number" not in kinds and isinstance(value, float) and value.is_integer():
        return int(value)
    return value if "string" not in kinds or any(_has_kind(value, kind) for kind in kinds) else clean(text)


def kinds_of(schema: Any) -> frozenset[str]:
    """Return the types that values of a client's own schema may have; any where the schema says nothing."""
    try:
        return possible_kinds(with_any_of(schema)) or KINDS
    except (TypeError, AttributeError, ValueError):
        return KINDS


def with_any_of(schema: Any) -> Any:
    """Return a schema with `anyOf` in the place of `oneOf`: which types are possible is the same."""
    if not isinstance(schema, dict) or "oneOf" not in schema or "anyOf" in schema:
        return schema
    return {("anyOf" if key == "oneOf" else key): value for key, value in schema.items()}


def _loose_value(text: str) -> Any:
    """Return a value in Python's syntax, JSON with line breaks in its strings, a number after zeros.

    Other text is returned as it is.
    """
    word = text.strip().lower()
    if word in WORDS:
        return WORDS[word]
    parsers: tuple[Callable[[str], Any], ...] = (LENIENT.decode, ast.literal_eval, int)
    for parse in parsers:
        try:
            return clean(parse(text.strip()))
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            pass
    return clean(text)


def _refuse(word: str) -> None:
    raise ValueError(word)


def _has_kind(value: Any, kind: str) -> bool:
    """Whether a value has a type of JSON Schema, in which true and false are not integers."""
    return isinstance(value, PYTHON_TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
