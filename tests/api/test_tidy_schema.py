"""Schemas as servers of tools really send them: nulls, wrong types and other dialects end in no error."""

from typing import Any

import pytest

from pensieve.api.formats.tool_calls.registry import SYNTAXES
from pensieve.api.formats.tool_calls.template_tools import template_tool
from pensieve.api.grammar.grammar_cache import GrammarCache, GrammarKey
from pensieve.api.schema import Tool
from pensieve.api.tidy_schema import COUNTS, LISTS, MAPS, NUMBERS, SCHEMAS, TEXTS, tidy_schema

from ..budget import sampled
from ..schemas import SCHEMAS as WELL_FORMED
from .conftest import Server
from .formats.tool_calls.known_formats import tool_format
from .grammar.byte_model import Model
from .test_errors import BODY

KEYWORDS = sorted(
    MAPS | LISTS | SCHEMAS | TEXTS | COUNTS | NUMBERS | {"type", "required", "enum", "uniqueItems"}
)
WRONG: list[Any] = [None, 5, -1.5, "x", True, [], {}, [None], [5, "x"], {"a": None}, "#/nothing", [[]]]
FORMATS = [name for name, syntax in SYNTAXES.items() if syntax.define_rule]


def odd_tool(wrong: Any) -> Tool:
    """A tool with a property for each keyword that has this value, and the same keywords at its root."""
    properties = {f"p_{key.strip('$')}": {"type": "string", key: wrong} for key in KEYWORDS}
    schema = {"type": "object", "properties": properties} | {
        key: wrong for key in KEYWORDS if key not in ("type", "properties")
    }
    return Tool(name="odd", input_schema=schema)


@pytest.mark.parametrize("name", sampled(FORMATS, ["qwen3_coder", "json_tools", "gemma4"]))
def test_no_malformed_keyword_ends_in_an_error_in_any_format(name: str) -> None:
    grammars, calls = GrammarCache(Model().vocabulary), tool_format(name)
    for wrong in WRONG:
        tool = odd_tool(wrong)
        assert grammars.compile(GrammarKey((tool,), calls, None)).text
        body = calls.open_body(calls.start, [template_tool(tool)])[0]
        body.add("<function=odd><parameter=p_type>5</parameter></function>")
        body.add_end_tag()


def test_well_formed_schemas_stay_as_they_are() -> None:
    for name, schema in WELL_FORMED.items():
        assert tidy_schema(schema) == schema, name
        assert list(tidy_schema(schema)) == list(schema)


@pytest.mark.parametrize(
    ("schema", "tidied"),
    [
        (None, {}),
        ({"type": "object", "properties": None, "required": None}, {"type": "object"}),
        ({"type": "String"}, {"type": "string"}),
        ({"type": "int"}, {"type": "integer"}),
        ({"type": ["str", "null"]}, {"type": ["string", "null"]}),
        ({"type": ["string", "file"]}, {}),
        ({"type": "any"}, {}),
        (
            {"properties": {"a": {"type": "string", "required": True}}},
            {"properties": {"a": {"type": "string"}}},
        ),
        ({"properties": {"a": None, "b": "string"}}, {"properties": {"a": {}, "b": {}}}),
        ({"required": ["a", 5, None]}, {"required": ["a"]}),
        ({"enum": []}, {}),
        ({"minLength": 2.0, "maxLength": "9", "minItems": -1}, {"minLength": 2}),
        ({"minimum": 1, "exclusiveMinimum": True}, {"exclusiveMinimum": 1}),
        ({"maximum": 1, "exclusiveMaximum": False}, {"maximum": 1}),
        ({"$ref": "#/$defs/none"}, {}),
        ({"$ref": "https://a.b/c.json"}, {}),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {}}}, {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {}}}),
        ({"x-order": None, "default": None}, {"x-order": None, "default": None}),
    ],
)
def test_what_is_malformed_is_left_out_and_other_dialects_are_read(schema: Any, tidied: Any) -> None:
    assert tidy_schema(schema) == tidied


def test_a_tool_and_an_answer_with_a_malformed_schema_are_served(server: Server) -> None:
    odd = {"type": "object", "properties": {"a": {"type": None, "anyOf": None}}, "required": None}
    fields: list[dict[str, Any]] = [
        {"tools": [{"name": "t", "input_schema": odd}]},
        {"output_config": {"format": {"type": "json_schema", "schema": odd}}},
    ]
    for field in fields:
        assert server.http().post("/v1/messages", json=BODY | field).status_code == 200
