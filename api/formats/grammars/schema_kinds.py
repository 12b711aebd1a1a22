"""The types of values that a schema allows, as far as its keywords show them."""

from typing import Any

from .json_schema import BOUNDS, NUMBER, Schema

SCALARS = frozenset({"integer", "number", "boolean", "null"})
KINDS = SCALARS | {"string", "array", "object"}

MAX_DEPTH = 8  # of references and branches; at a greater depth every type counts as possible

_NAMES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


def possible_kinds(schema: Any, depth: int = 0) -> frozenset[str]:
    """Return the types that values of a schema may have."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return KINDS if schema is not False else frozenset()
    kinds = KINDS
    named = schema.get("type")
    if named is not None:
        kinds &= frozenset(named if isinstance(named, list) else [named])
    values = listed_values(schema)
    if values is not None:
        found = {_NAMES.get(type(value), "null") for value in values}
        kinds &= found | {"number", "integer"} if found & {"number", "integer"} else found
    resolved = resolve(schema)
    if resolved is not schema:
        kinds &= possible_kinds(resolved, depth + 1)
    for part in schema.get("allOf", ()):
        kinds &= possible_kinds(with_definitions(schema, part), depth + 1)
    branches = schema.get("anyOf")
    if branches:
        parts = [with_definitions(schema, part) for part in branches]
        kinds &= frozenset().union(*(possible_kinds(part, depth + 1) for part in parts))
    return kinds


def resolve(schema: Schema) -> Schema:
    """Return the definition that a schema refers to; without a reference, the schema itself."""
    for key in ("$defs", "definitions"):
        name = schema.get("$ref", "").removeprefix(f"#/{key}/")
        if name in schema.get(key, {}):
            target = schema[key][name]
            return {**target, key: schema[key]} if isinstance(target, dict) else {}
    return schema


def with_definitions(schema: Schema, part: Any) -> Any:
    """Return a part of `schema` with the definitions that the part may refer to."""
    if not isinstance(part, dict):
        return part
    return part | {key: schema[key] for key in ("$defs", "definitions") if key in schema}


def listed_values(schema: Schema) -> list[Any] | None:
    """Return the values of a schema's `enum` or `const`, None when it has neither."""
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def branches(schema: Schema) -> list[Schema]:
    """List the branches of a schema's `anyOf` that its type allows, without the keywords beside `anyOf`."""
    kinds = possible_kinds(schema)
    parts = [with_definitions(schema, part) for part in schema["anyOf"] if isinstance(part, dict)]
    return [part for part in parts if possible_kinds(part) & kinds]


def text_schemas(schema: Schema) -> list[Schema]:
    """List the flat branches of a schema that allow strings."""
    return [part for part in flat_branches(schema) if "string" in possible_kinds(part)]


def flat_branches(schema: Schema, depth: int = 0) -> list[Schema]:
    """List the branches of a schema, nested branches flattened; the schema itself if it has none."""
    schema = resolve(schema)
    if "anyOf" not in schema:
        return [schema]
    if depth > MAX_DEPTH:
        return []
    return [part for branch in branches(schema) for part in flat_branches(branch, depth + 1)]


def scalar_schema(schema: Schema) -> Schema | None:
    """Reduce a schema without branches to its numbers, booleans and null; None when it allows none."""
    kinds = possible_kinds(schema) & SCALARS
    values = listed_values(schema)
    if values is not None:
        scalars = [value for value in values if not isinstance(value, str | list | dict)]
        return {"enum": scalars} if scalars else None
    bounds = {key: schema[key] for key in BOUNDS | {"multipleOf"} if key in schema}
    return {**(bounds or NUMBER), "type": sorted(kinds)} if kinds else None
