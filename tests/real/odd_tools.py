"""Schemas of tools as MCP servers and SDKs send them, valid and not."""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "description": "A text."}


def properties(**schemas: Any) -> Schema:
    return {"type": "object", "properties": schemas, "required": sorted(schemas)}


ODD_SCHEMAS: dict[str, Schema] = {
    "plain": properties(command=TEXT),
    "empty": {},
    "no properties": {"type": "object"},
    "no type": {"properties": {"command": TEXT}},
    "null members": {"type": "object", "properties": None, "required": None, "anyOf": None, "$defs": None},
    "null property": properties(command=None),
    "true property": properties(command=True),
    "false extra": {**properties(command=TEXT), "additionalProperties": False, "$schema": "x"},
    "list of types": properties(command={"type": ["string", "null"]}, many={"type": ["array", "integer"]}),
    "number enum": properties(level={"type": "integer", "enum": [1, 2, 3], "default": 2}),
    "mixed enum": properties(level={"enum": [1, "two", None, True, 4.5], "default": None}),
    "enum without type": properties(mode={"enum": ["a", "b"]}),
    "const": properties(kind={"const": "x"}, other={"const": 3}),
    "any of": properties(value={"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}),
    "one of": properties(value={"oneOf": [TEXT, {"type": "array", "items": TEXT}]}),
    "all of": properties(value={"allOf": [TEXT, {"minLength": 2}]}),
    "references": {**properties(value={"$ref": "#/$defs/a"}), "$defs": {"a": properties(b=TEXT)}},
    "recursive": {
        **properties(value={"$ref": "#/$defs/a"}),
        "$defs": {"a": properties(a={"$ref": "#/$defs/a"})},
    },
    "array": properties(names={"type": "array", "items": TEXT}, bare={"type": "array"}),
    "tuple": properties(
        pair={"type": "array", "items": [TEXT, {"type": "integer"}]}, all={"prefixItems": [TEXT]}
    ),
    "items true": properties(names={"type": "array", "items": True}),
    "nested": properties(a=properties(b=properties(c={"type": "object", "properties": {}}))),
    "record": properties(
        map={"type": "object", "additionalProperties": TEXT, "propertyNames": {"pattern": "^a"}}
    ),
    "formats": properties(
        at={"type": "string", "format": "date-time", "pattern": "^\\d+(?=x)", "minLength": 1}
    ),
    "bounds": properties(n={"type": "number", "minimum": 0, "exclusiveMaximum": 1e9, "multipleOf": 0.5}),
    "defaults": properties(
        a={"type": "boolean", "default": False}, b={"type": "array", "default": [], "items": TEXT}
    ),
    "odd names": properties(
        **{"a-b": TEXT, "ü": TEXT, "with space": TEXT, "$x": TEXT, "type": TEXT, "items": TEXT}
    ),
    "required not strings": {**properties(command=TEXT), "required": [1, None, "command"]},
    "type of python": properties(value={"type": "str"}, other={"type": {"type": "string"}}),
    "description not text": properties(value={"type": "string", "description": None}, n={"description": 3}),
    "examples": properties(value={"type": "string", "examples": ["a", 1, {"b": None}], "title": "Value"}),
    "quotes": properties(
        value={"type": "string", "description": "\"quoted\" 'x'\n\n{{ a }} {% b %} <|im_end|>"}
    ),
}


def odd_tool(name: str) -> dict[str, Any]:
    """Return a tool with one of the schemas, besides which the usual one stays callable."""
    return {"name": "Odd", "description": "Does odd things for you.", "input_schema": ODD_SCHEMAS[name]}


BASH: dict[str, Any] = {
    "name": "Bash",
    "description": "Runs a command.",
    "input_schema": properties(command=TEXT) | {"required": ["command"]},
}
READ: dict[str, Any] = {
    "name": "Read",
    "description": "Reads a file.",
    "input_schema": properties(path=TEXT, command=TEXT) | {"required": []},
}
