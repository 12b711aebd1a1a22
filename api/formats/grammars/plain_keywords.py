"""Says in keywords that the grammar compiler knows what a schema says in others that mean the same.

Zod writes a record with the names of its keys (`propertyNames`), and a property that must not be there as
`{"not": {}}`.
"""

from collections.abc import Mapping
from typing import Any

COMBINERS = frozenset({"allOf", "anyOf", "oneOf", "$ref", "if"})
NAMED = frozenset({"properties", "patternProperties"})


def is_never(schema: Any) -> bool:
    """Return whether no value conforms to a schema because it says so."""
    return schema is False or (isinstance(schema, Mapping) and schema.get("not") in ({}, True))


def plainer(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema with the same meaning in plainer keywords, the schema itself where there are none."""
    if "propertyNames" in schema and not schema.keys() & NAMED:
        schema = _named_record(schema)
    if schema.get("unevaluatedProperties") is False and not schema.keys() & (
        COMBINERS | {"additionalProperties"}
    ):
        schema = _without(schema, "unevaluatedProperties") | {"additionalProperties": False}
    return schema


def _named_record(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of an object whose keys have a schema too."""
    names, values = schema["propertyNames"], schema.get("additionalProperties", True)
    if names is True or (isinstance(names, Mapping) and not names.keys() - {"type", "title", "description"}):
        return _without(schema, "propertyNames")  # a key is a text in any case
    if not isinstance(names, Mapping):
        return schema
    listed = [names["const"]] if "const" in names else names.get("enum")
    rest = _without(schema, "propertyNames")
    if isinstance(listed, list):
        keys = [name for name in listed if isinstance(name, str)]
        return rest | {"properties": dict.fromkeys(keys, values), "additionalProperties": False}
    if isinstance(names.get("pattern"), str) and not names.keys() - {"type", "pattern"}:
        return rest | {"patternProperties": {names["pattern"]: values}, "additionalProperties": False}
    return schema


def _without(schema: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != key}
