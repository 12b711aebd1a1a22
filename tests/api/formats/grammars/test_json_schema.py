from typing import Any

import pytest

from pensieve.api.formats.grammars.json_schema import (
    ANY,
    ANY_NAME,
    ANY_VALUE,
    UNSUPPORTED,
    SchemaError,
    answer_schemas,
    arguments_schema,
    dump_schema,
    exact_schema,
    structure_only,
)

from ....schemas import record


def test_annotations_are_left_out() -> None:
    noted = {
        "type": "string",
        "title": "T",
        "description": "d",
        "default": "x",
        "x-order": 1,
        "nullable": True,
    }
    assert exact_schema(noted) == {"type": "string"}


def test_a_property_may_be_called_like_a_keyword() -> None:
    schema = record(
        "not", **{"not": {"type": "boolean"}, "description": {"type": "string"}, "format": {"type": "null"}}
    )
    assert exact_schema(schema) == schema


def test_a_client_cannot_set_the_compilers_options() -> None:
    schema = exact_schema({"type": "string", "x-guidance": {"item_separator": "(a+)+"}})
    assert schema == {"type": "string"}
    assert "item_separator" not in dump_schema(schema)


@pytest.mark.parametrize("keyword", sorted(UNSUPPORTED))
def test_what_cannot_be_enforced_is_left_out_and_named(keyword: str) -> None:
    inner = {"type": "string", keyword: {"a": {}}}
    found, left_out = next(answer_schemas(record(a=inner)))
    assert (found, left_out) == (record(a={"type": "string"}), {keyword})
    assert arguments_schema(record(a=inner)) == record(a={"type": "string"})


def test_a_keyword_that_is_switched_off_says_nothing() -> None:
    assert exact_schema(record(a={"type": "string", "not": False})) == record(a={"type": "string"})


def test_formats_that_are_not_known_are_annotations() -> None:
    assert exact_schema({"type": "string", "format": "color"}) == {"type": "string"}
    assert exact_schema({"type": "string", "format": "uuid"}) == {"type": "string", "format": "uuid"}


@pytest.mark.parametrize("schema", [{"type": "number"}, {"type": ["null", "number"]}])
def test_numbers_get_a_bound_where_they_have_none(schema: dict[str, Any]) -> None:
    assert exact_schema(schema) == schema | {"minimum": -1e18, "maximum": 1e18}
    bounded = schema | {"minimum": 3}
    assert exact_schema(bounded) == bounded


@pytest.mark.parametrize(
    "schema", [{}, {"type": "string"}, {"type": ["object", "null"]}, {"$ref": "#/$defs/a"}]
)
def test_arguments_are_an_object_whatever_a_tool_says(schema: dict[str, Any]) -> None:
    assert arguments_schema(schema)["type"] == "object"


def test_only_structure_is_left_of_a_schema_that_does_not_compile() -> None:
    inner = {"type": "string", "pattern": "^(?=a)", "minLength": 3, "enum": ["a"]}
    left = structure_only(record("a", a=inner, b={"type": "integer", "minimum": 1}))
    assert left["properties"] == {"a": {"type": "string", "enum": ["a"]}, "b": {"type": "integer"}}
    assert left["required"] == ["a"]


@pytest.mark.parametrize("part", [5, "string", None, [1]])
def test_what_is_no_schema_is_refused(part: Any) -> None:
    with pytest.raises(SchemaError, match="schema must be"):
        exact_schema({"properties": {"a": part}})


@pytest.mark.parametrize(
    ("schema", "filled"),
    [
        ({}, ANY),
        ({"type": "array"}, {"type": "array", "items": ANY}),
        ({"type": "object"}, {"type": "object", "additionalProperties": ANY}),
        ({"properties": {"a": {}, "b": True}}, {"properties": {"a": ANY, "b": ANY}}),
        (record(a={"type": "array", "items": True}), record(a={"type": "array", "items": ANY})),
    ],
)
def test_what_is_left_open_may_be_any_value_but_no_number_beyond_a_float(
    schema: dict[str, Any], filled: dict[str, Any]
) -> None:
    found = exact_schema(schema)
    assert found.pop("$defs") == {ANY_NAME: ANY_VALUE}
    assert found == filled


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"type": "object", "properties": {"a": {}}}, {"type": "object"}]},
        {"$defs": {"A": {"type": "object"}}, "allOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/A"}]},
    ],
)
def test_what_is_part_of_an_intersection_is_left_as_it_is(schema: dict[str, Any]) -> None:
    """Two schemas that say of everything else that it may be anything have no intersection that compiles."""
    assert exact_schema(schema) == schema


def of_strings(**keywords: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": {"type": "string"}, **keywords}


@pytest.mark.parametrize(
    ("schema", "plain"),
    [
        (of_strings(propertyNames={"type": "string"}), of_strings()),
        (
            of_strings(propertyNames={"enum": ["a", "b"]}),
            record(a={"type": "string"}, b={"type": "string"}),
        ),
        (
            of_strings(propertyNames={"type": "string", "pattern": "^x"}),
            {
                "type": "object",
                "patternProperties": {"^x": {"type": "string"}},
                "additionalProperties": False,
            },
        ),
        (record(a={"not": {}}), record(a=False)),  # type: ignore[arg-type]  # a schema may be a boolean
        (
            {"type": "object", "properties": {"a": {"type": "null"}}, "unevaluatedProperties": False},
            record(a={"type": "null"}),
        ),
    ],
)
def test_other_words_for_the_same_are_said_in_plain_ones(schema: Any, plain: Any) -> None:
    assert next(answer_schemas(schema)) == (plain, set())


@pytest.mark.parametrize("pattern", ["^(?=a)b", "(?<!a)b", r"\bword\b", r"(a)\1", r"\\\b"])
def test_patterns_that_look_around_are_left_out(pattern: str) -> None:
    found, left_out = next(answer_schemas({"type": "string", "pattern": pattern}))
    assert (found, left_out) == ({"type": "string"}, {"pattern"})


@pytest.mark.parametrize("pattern", ["^a(?:b)$", r"\\b", r"[\d]\w", "(?P<name>a)", "(?i)a"])
def test_other_patterns_stay(pattern: str) -> None:
    schema = {"type": "string", "pattern": pattern}
    assert next(answer_schemas(schema)) == (schema, set())
