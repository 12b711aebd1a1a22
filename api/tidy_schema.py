"""Tidies JSON schemas as clients send them: keywords whose values are of the wrong type are left out.

Servers of tools send nulls where they have nothing to say, Python's names of types, `required: true` in a
property (draft 3) or references to nothing. JSON Schema gives such keywords no meaning, and whoever reads a
schema later (templates, grammars, readers of calls) may rely on the types of those that are left. What is
well formed stays as it is, unknown keywords too.
"""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

Json = Any

KINDS = ("object", "array", "string", "number", "integer", "boolean", "null")
OTHER_NAMES = {"str": "string", "text": "string", "int": "integer", "float": "number", "double": "number"}
OTHER_NAMES |= {"bool": "boolean", "list": "array", "dict": "object", "none": "null"}

MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
SCHEMAS = frozenset(
    {
        *("items", "additionalProperties", "additionalItems", "contains", "propertyNames", "not"),
        *("if", "then", "else", "unevaluatedProperties", "unevaluatedItems"),
    }
)
TEXTS = frozenset({"$ref", "$id", "$anchor", "$schema", "pattern", "format", "title", "description"})
COUNTS = frozenset(
    {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
    | {"minContains", "maxContains"}
)
NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})

NOTHING = object()

logger = logging.getLogger(__name__)


def tidy_schema(schema: Json) -> Json:
    """Return a tool's or an answer's schema without what is malformed; what is no schema becomes `{}`."""
    tidier = _Tidier(schema)
    tidied = tidier.schema(schema)
    if tidier.left_out:
        logger.debug("left out of a JSON schema, being malformed: %s", ", ".join(sorted(tidier.left_out)))
    return tidied if isinstance(tidied, dict) else {}


class _Tidier:
    """Copies one schema. left_out: the names of keywords that were left out."""

    def __init__(self, root: Json) -> None:
        self._root = root
        self.left_out: set[str] = set()

    def schema(self, schema: Json) -> Json:
        """Return a schema or a boolean; `{}` for what is neither."""
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            self.left_out.add("a schema")
            return {}
        kept: dict[str, Json] = {}
        for key, value in schema.items():
            found = self._value(key, value)
            if found is NOTHING:
                self.left_out.add(key if key in TIDIERS or key in _NESTED else "a keyword")
            else:
                kept[key] = found
        for bound, strict in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            if schema.get(strict) is True and bound in kept:  # draft 4
                kept[strict] = kept.pop(bound)
        return kept

    def _value(self, key: str, value: Json) -> Json:
        if key in MAPS:
            return (
                {str(name): self.schema(part) for name, part in value.items()}
                if isinstance(value, Mapping)
                else NOTHING
            )
        if key in LISTS or (key == "items" and isinstance(value, list)):
            return [self.schema(part) for part in value] if isinstance(value, list) and value else NOTHING
        if key in SCHEMAS:
            return self.schema(value) if isinstance(value, bool | Mapping) else NOTHING
        if key == "$ref" and isinstance(value, str):
            return value if self._refers(value) else NOTHING
        tidier = TIDIERS.get(key)
        return value if tidier is None else tidier(value)

    def _refers(self, reference: str) -> bool:
        """Return whether a reference leads to a schema within the root."""
        if not reference.startswith("#"):
            return False
        if reference != "#" and not reference.startswith("#/"):
            return True  # an anchor, which the compiler looks up
        place = self._root
        for part in reference.split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if isinstance(place, list) and part.isdigit() and int(part) < len(place):
                place = place[int(part)]
            elif isinstance(place, Mapping) and part in place:
                place = place[part]
            else:
                return False
        return isinstance(place, bool | Mapping)


_NESTED = MAPS | LISTS | SCHEMAS


def _type(value: Json) -> Json:
    names = value if isinstance(value, list) else [value]
    known = [OTHER_NAMES.get(name.lower(), name.lower()) for name in names if isinstance(name, str)]
    known = [name for name in dict.fromkeys(known) if name in KINDS]
    if not known or len(known) < len({str(name) for name in names}):
        return NOTHING  # a type that nobody knows may stand for any value
    return known if isinstance(value, list) else known[0]


def _names(value: Json) -> Json:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else NOTHING


def _values(value: Json) -> Json:
    return value if isinstance(value, list) and value else NOTHING


def _text(value: Json) -> Json:
    return value if isinstance(value, str) else NOTHING


def _count(value: Json) -> Json:
    is_whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    return int(value) if is_whole and 0 <= value < 2**31 else NOTHING


def _number(value: Json) -> Json:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else NOTHING


def _flag(value: Json) -> Json:
    return value if isinstance(value, bool) else NOTHING


TIDIERS: dict[str, Callable[[Json], Json]] = {
    "type": _type,
    "required": _names,
    "enum": _values,
    "uniqueItems": _flag,
    **dict.fromkeys(TEXTS, _text),
    **dict.fromkeys(COUNTS, _count),
    **dict.fromkeys(NUMBERS, _number),
}
