"""Fifty schemas of tool arguments, in the manner of Claude Code's tools, of MCP servers and of generators."""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
SHORT: Schema = {"type": "string", "maxLength": 12}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 5000}


def record(required: str = "", /, **properties: Schema) -> Schema:
    """An object with these properties and no others, of which `required` names some."""
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"required": required.split()} if required else {})


def opened(schema: Schema) -> Schema:
    """The same object, with whatever else a caller may think of."""
    return {key: value for key, value in schema.items() if key != "additionalProperties"}


def listed(items: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": items, **bounds}


def nullable(schema: Schema) -> Schema:
    """As pydantic writes an optional field."""
    return {"anyOf": [schema, {"type": "null"}], "default": None}


# As Claude Code describes its own tools.
CLIENT: dict[str, Schema] = {
    "bash": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **record("command", command=TEXT, timeout={"type": "number"}, description=TEXT, background=FLAG),
    },
    "read": record(
        "file_path", file_path=TEXT, offset=COUNT, limit={"type": "integer", "exclusiveMinimum": 0}
    ),
    "edit": record(
        "file_path old_string new_string",
        file_path={"type": "string", "description": "absolute"},
        old_string=TEXT,
        new_string=TEXT,
        replace_all={"type": "boolean", "default": False},
    ),
    "write": record("file_path content", file_path=TEXT, content=TEXT),
    "grep": record(
        "pattern",
        **{"pattern": TEXT, "path": TEXT, "-A": COUNT, "-i": FLAG, "head_limit": COUNT},
        output_mode={"type": "string", "enum": ["content", "files_with_matches", "count"]},
    ),
    "todo": record(
        "todos",
        todos=listed(
            record(
                "content status activeForm",
                content={"type": "string", "minLength": 1, "maxLength": 20},
                status={"type": "string", "enum": ["pending", "in_progress", "completed"]},
                activeForm={"type": "string", "minLength": 1, "maxLength": 20},
            ),
            maxItems=4,
        ),
    ),
    "task": record("description prompt", description=SHORT, prompt=TEXT, model={"enum": ["sonnet", "haiku"]}),
    "fetch": record("url prompt", url={"type": "string", "format": "uri"}, prompt=SHORT),
    "ask": record(
        "questions",
        questions=listed(
            record(
                "question options multiSelect",
                question=SHORT,
                header={"type": "string", "maxLength": 12},
                options=listed(
                    record("label description", label=SHORT, description=SHORT), minItems=2, maxItems=4
                ),
                multiSelect=FLAG,
            ),
            minItems=1,
            maxItems=4,
        ),
        answers={"type": "object", "additionalProperties": SHORT, "maxProperties": 3},
    ),
    "notebook": record(
        "path source", path=TEXT, source=SHORT, cell_type={"enum": ["code", "markdown"]}, id=SHORT
    ),
}

# As MCP servers do: open objects, annotations, dialects.
SERVERS: dict[str, Schema] = {
    "fs_list": opened(record("path", path=SHORT)),
    "fs_multi": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **record("paths", paths=listed(SHORT)),
    },
    "fs_edit": record(
        "path edits",
        path=SHORT,
        edits=listed(record("oldText newText", oldText=SHORT, newText=SHORT), maxItems=3),
        dryRun={"type": "boolean", "default": False},
    ),
    "issue": record(
        "owner repo title",
        owner=SHORT,
        repo=SHORT,
        title=SHORT,
        labels=listed(SHORT, maxItems=3),
        milestone={"type": "number"},
        state={"type": "string", "enum": ["open", "closed"]},
    ),
    "search": record(
        "q", q=SHORT, page={"type": "number", "minimum": 1}, perPage={"type": "number", "maximum": 100}
    ),
    "query": record(
        "sql", sql=SHORT, params=listed({"type": ["string", "number", "boolean", "null"], "maxLength": 9})
    ),
    "click": record(
        "selector", **{"selector": SHORT, "button": {"enum": ["left", "right"]}, "x-offset": COUNT}
    ),
    "thought": record(
        "thought nextThoughtNeeded thoughtNumber",
        thought=SHORT,
        nextThoughtNeeded=FLAG,
        thoughtNumber={"type": "integer", "minimum": 1},
    ),
    "graph": record(
        "entities",
        entities=listed(
            record(
                "name entityType observations",
                name=SHORT,
                entityType=SHORT,
                observations=listed(SHORT, maxItems=2),
            ),
            maxItems=2,
        ),
    ),
    "time": record(
        "timezone",
        timezone={"type": "string", "description": "IANA name"},
        at={"format": "time", "type": "string"},
    ),
    "ping": {"type": "object", "properties": {}},
    "no_schema": {"type": "object", "properties": {}, "additionalProperties": False},
    "slack": record("channel text", channel={"type": "string", "pattern": "^C[A-Z0-9]{8}$"}, text=SHORT),
    "jira": record(
        "key",
        key={"type": "string", "pattern": "^[A-Z]{2,5}-[0-9]{1,4}$"},
        fields={"type": "object", "additionalProperties": SHORT, "maxProperties": 2},
    ),
    "mail": record(
        "to",
        to=listed({"type": "string", "format": "email"}, minItems=1, maxItems=2),
        at={"type": "string", "format": "date-time"},
    ),
}

# As pydantic, zod and people write them.
GENERATED: dict[str, Schema] = {
    "optional": record(
        "a", a=nullable({"type": "integer"}), b=nullable(SHORT), c=nullable(listed(FLAG, maxItems=3))
    ),
    "refs": {
        "$defs": {"Point": record("x y", x={"type": "number"}, y={"type": "number"})},
        **record("from to", **{"from": {"$ref": "#/$defs/Point"}, "to": {"$ref": "#/$defs/Point"}}),
    },
    "definitions": {
        "definitions": {"Name": {"type": "string", "maxLength": 8}},
        **record("names", names=listed({"$ref": "#/definitions/Name"}, minItems=1, maxItems=3)),
    },
    "tree": {
        "$defs": {
            "Node": record(
                "label", label={"enum": ["a", "b"]}, kids=listed({"$ref": "#/$defs/Node"}, maxItems=2)
            )
        },
        **record("root", root={"$ref": "#/$defs/Node"}),
    },
    "tagged": record(
        "shape",
        shape={
            "oneOf": [
                record(
                    "kind radius", kind={"const": "circle"}, radius={"type": "number", "exclusiveMinimum": 0}
                ),
                record("kind width height", kind={"const": "box"}, width=COUNT, height=COUNT),
            ]
        },
    ),
    "all_of": {
        "type": "object",
        "allOf": [opened(record("id", id=COUNT)), opened(record("name", name=SHORT))],
    },
    "any_of": {"type": "object", "anyOf": [record("a", a=COUNT), record("b", b=FLAG)]},
    "const": record("version mode", version={"const": 2}, mode={"const": "fast"}, extra={"const": None}),
    "mixed_enum": record("v", v={"enum": ["a", 1, 2.5, None, True, {"k": [1]}, "</tool_call>"]}),
    "tuple": record(
        "pair", pair={"type": "array", "prefixItems": [SHORT, COUNT], "items": False, "minItems": 2}
    ),
    "matrix": record(
        "m",
        m=listed(
            listed({"type": "integer", "minimum": -9, "maximum": 9}, minItems=2, maxItems=2),
            minItems=2,
            maxItems=2,
        ),
    ),
    "map": record(
        "scores",
        scores={"type": "object", "additionalProperties": COUNT, "minProperties": 1, "maxProperties": 3},
    ),
    "pattern_map": record(
        "env",
        env={"type": "object", "patternProperties": {"^[A-Z]{1,4}$": SHORT}, "additionalProperties": False},
    ),
    "bounds": record(
        "a b c d",
        a={"type": "integer", "minimum": 10, "maximum": 20},
        b={"type": "integer", "exclusiveMinimum": -5, "exclusiveMaximum": 5},
        c={"type": "number", "minimum": 0, "maximum": 1},
        d={"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
    ),
    "lengths": record(
        "code",
        code={"type": "string", "minLength": 3, "maxLength": 6},
        pin={"type": "string", "pattern": "^\\d{4}$"},
    ),
    "formats": record(
        "id on",
        id={"type": "string", "format": "uuid"},
        on={"type": "string", "format": "date"},
        ip={"type": "string", "format": "ipv4"},
        colour={"type": "string", "format": "color", "maxLength": 7},
    ),
    "unicode": record(
        "größe", **{"größe": {"enum": ["klein", "groß", "日本"]}, "emoji 🎈": FLAG, 'with "quotes"': COUNT}
    ),
    "words": record(
        "not if", **{"not": FLAG, "if": SHORT, "$ref": COUNT, "properties": FLAG, "description": SHORT}
    ),
    "free": record("value", value={"type": ["integer", "boolean", "null"]}, other={"enum": [1, 2]}),
    "single": record(
        "numbers", numbers=listed({"type": "integer", "minimum": 0, "maximum": 99}, minItems=1, maxItems=8)
    ),
    "deep": record(
        "a", a=record("b", b=record("c", c=record("d", d=record("e", e=listed(COUNT, maxItems=2)))))
    ),
    "unknown_words": {
        **record("a", a={**SHORT, "markdownDescription": "x", "x-order": 1}),
        "title": "T",
        "$comment": "c",
    },
    "relaxed": record(
        "tags",
        tags={**listed(SHORT, maxItems=3), "description": "no two alike"},
        n={"type": "integer", "format": "int32", "maximum": 99},
    ),
    "nested_any": record(
        "filter",
        filter={
            "anyOf": [
                SHORT,
                record("field op", field=SHORT, op={"enum": ["=", "<"]}),
                listed(COUNT, maxItems=2),
            ]
        },
    ),
    "many": record("p0 p7", **{f"p{i}": FLAG for i in range(12)}),
}

SCHEMAS: dict[str, Schema] = CLIENT | SERVERS | GENERATED
