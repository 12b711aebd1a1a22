"""The schemas that Pydantic writes: none is refused, and what is not enforced is named in the log."""

import json
import logging
import warnings
from typing import Any

import pytest
from pydantic import TypeAdapter

from pensieve.api.formats.grammars.json_schema import any_arguments
from pensieve.api.grammar.grammar_cache import Grammar, GrammarCache, GrammarKey
from pensieve.api.schema import Tool
from pensieve.api.tidy_schema import tidy_schema

from ...budget import EVERYTHING
from .byte_model import Model
from .pydantic_types import TYPES

# Keywords that no grammar enforces.
LOOSE = {"uniqueItems", "pattern", "propertyNames", "minProperties"}


def schema_of(kind: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TypeAdapter(kind).json_schema()


def begins(model: Model, grammar: Grammar, text: str) -> bool:
    """Whether a text, byte by byte, may be the beginning of what the grammar describes."""
    tokens = model.vocabulary.spell(text.encode())
    return bool(grammar.begin().try_consume_tokens(tokens) == len(tokens))


def takes(model: Model, grammar: Grammar, text: str) -> bool:
    """Whether a text, byte by byte, is all that the grammar needs."""
    matcher, tokens = grammar.begin(), model.vocabulary.spell(text.encode())
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


def test_every_type_is_taken_as_an_answer_and_as_a_tools_argument(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(TYPES) >= 80
    caplog.set_level(logging.INFO)
    grammars = GrammarCache(model.vocabulary)
    for kind, value in TYPES if EVERYTHING else TYPES[::4]:
        schema = schema_of(kind)
        assert tidy_schema(schema) == schema, f"{kind} is well formed"
        answer = grammars.compile(GrammarKey((), None, schema))
        assert takes(model, answer, json.dumps(value)), f"{kind} as an answer: {schema}"
        wanted = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
        wanted["$defs"] = schema.pop("$defs", {})
        tool = Tool(name="t", input_schema=wanted)
        found = grammars._callable(model.format, tool)
        assert found.schema != any_arguments(), f"{kind} as an argument"
        call = "<call>" + json.dumps({"name": "t", "arguments": {"a": value}}) + "</call>"
        calls = grammars.compile(GrammarKey((tool,), model.format, None))
        assert begins(model, calls, call), f"{kind} as an argument: {call}"
    left_out = {word for line in caplog.messages for word in line.partition(" its ")[2].split(", ")}
    assert left_out <= LOOSE | {""}, "everything else is enforced"
    print(f"{len(TYPES)} types; left out of {len(caplog.messages)} of their schemas: {sorted(left_out)}")


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (
            {"propertyNames": {"enum": ["a"]}, "type": "object", "additionalProperties": True},
            '{"a": 1}',
            '{"b',
        ),
        ({"type": "object", "properties": {"never": {"not": {}}}}, '{"x": 1}', '{"never": '),
        ({"oneOf": [{"const": 1}, {"const": 2}]}, "1", "3"),
        ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "[1, 1]", '["a'),
        ({"type": "string", "pattern": "^(?=x)y"}, '"anything"', "1"),
        ({"anyOf": [{"not": {}}, {"type": "null"}]}, "null", "1"),
        ({"type": "object", "minProperties": 1, "properties": {"a": {"const": 1}}}, '{"a": 1}', '{"a": 2'),
        ({"if": {}, "then": {}, "type": "integer"}, "1", '"'),
    ],
)
def test_the_rest_of_a_schema_holds_where_a_part_is_left_out(
    model: Model, schema: Any, good: str, bad: str
) -> None:
    grammar = GrammarCache(model.vocabulary).compile(GrammarKey((), None, schema))
    assert takes(model, grammar, good)
    assert not begins(model, grammar, bad)
