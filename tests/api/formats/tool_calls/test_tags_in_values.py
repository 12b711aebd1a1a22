"""Tags in the values of calls that are not JSON: the grammar allows none that would end a value early."""

import json
from typing import Any

import pytest

from pensieve.api.formats.grammars.without_tags import without_tags
from pensieve.api.grammar.grammar_cache import GrammarCache, GrammarKey
from pensieve.api.grammar.vocabulary import Vocabulary
from pensieve.api.schema import Tool

from .known_formats import tool_format
from .test_parameter_values import FORMS, call

TEXT = {"type": "string"}
LIST = {"type": "array", "items": TEXT}
TAGS = {  # that end a value, a body or a call
    "qwen3_coder": ("</parameter>", "</tool_call>"),
    "glm47": ("</arg_value>", "</tool_call>"),
    "longcat": ("</longcat_arg_value>", "</longcat_tool_call>"),
    "minimax_m2": ("</parameter>", "</minimax:tool_call>", "</invoke>"),
    "minicpm5": ("</param>", "</function>"),
    "muse_spark": ("</atem:parameter>", "</atem:function_calls>", "</atem:invoke>"),
}
CASES = [(parser, tag) for parser, tags in TAGS.items() for tag in tags]


def takes(vocabulary: Vocabulary, parser: str, schema: Any, value: str) -> bool:
    """Whether the grammar of a tool with one parameter allows a value for it."""
    object_schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    tool = Tool(name="t", input_schema=object_schema)
    matcher = GrammarCache(vocabulary).compile(GrammarKey((tool,), tool_format(parser), None)).begin()
    text = list(call(parser, ("a", value)).encode())
    return bool(matcher.try_consume_tokens(text) == len(text) and matcher.is_accepting())


@pytest.mark.parametrize(("parser", "tag"), CASES)
def test_no_text_holds_a_tag_that_ends_it(vocabulary: Vocabulary, parser: str, tag: str) -> None:
    """Such a call was valid by its grammar, and was read cut off or without the parameter."""
    assert takes(vocabulary, parser, TEXT, f"one <{tag[:-1]} two")
    assert not takes(vocabulary, parser, TEXT, f"one {tag} two")
    assert not takes(vocabulary, parser, TEXT | {"enum": ["x", f"one {tag} two"]}, f"one {tag} two")


@pytest.mark.parametrize(("parser", "tag"), CASES)
def test_no_string_of_json_holds_a_tag_that_ends_it(vocabulary: Vocabulary, parser: str, tag: str) -> None:
    """A list of texts was cut off at the tag and handed over as a text."""
    assert takes(vocabulary, parser, LIST, json.dumps([f"one <{tag[:-1]} </div> <", "two"]))
    assert not takes(vocabulary, parser, LIST, json.dumps([f"one {tag} two"]))
    assert not takes(vocabulary, parser, {"type": "object"}, json.dumps({f"one {tag}": 2}))
    assert not takes(vocabulary, parser, {"type": "object"}, json.dumps({"one": [{"two": tag}]}))


@pytest.mark.parametrize("parser", FORMS)
def test_texts_and_words_stand_without_quotes_wherever_the_schema_allows_them(
    vocabulary: Vocabulary, parser: str
) -> None:
    for kinds in (["string", "null"], ["string", "integer"]):
        assert takes(vocabulary, parser, {"type": kinds}, "hello")
    for value in ("true", "True", "null", "None", "2"):
        assert takes(vocabulary, parser, {"type": ["boolean", "null", "integer"]}, value)
    assert takes(vocabulary, parser, {"enum": ["a", None]}, "null")
    assert not takes(vocabulary, parser, {"enum": ["a", None]}, "b")
    assert not takes(vocabulary, parser, {"type": "integer"}, "hello")


def test_what_a_schema_says_of_strings_still_holds() -> None:
    schema = {"type": "string", "pattern": "^a", "allOf": [{"maxLength": 5}]}
    kept = without_tags(schema, ["</a>"])
    assert kept["pattern"] == "^a"
    assert kept["allOf"][0]["maxLength"] == 5
    assert without_tags({"const": "</a>"}, ["</a>"]) == {"const": "</a>"}, "something must be left to write"
    assert without_tags(schema, []) == schema


def test_every_format_of_text_is_tried() -> None:
    assert FORMS.keys() == TAGS.keys()
