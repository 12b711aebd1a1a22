"""What every format's grammar allows is read, and what is read conforms to the tool's schema.

Calls are drawn at random from the grammar itself: any token that the mask allows, ends preferred.
"""

import random
from typing import Any

import jsonschema
import numpy as np
import pytest

from pensieve.api.formats.tool_calls.registry import SYNTAXES
from pensieve.api.formats.tool_calls.template_tools import template_tool
from pensieve.api.grammar.grammar_cache import GrammarCache, GrammarKey
from pensieve.api.grammar.vocabulary import Vocabulary
from pensieve.api.prompt.round_trip import read_calls
from pensieve.api.schema import Tool

from ....budget import trials
from ....schemas import SCHEMAS
from .known_formats import tool_format

FORMATS = [name for name, syntax in SYNTAXES.items() if syntax.define_rule] + ["laguna", "minimax_m3"]

# What each format cannot say: patterns and formats of strings, of those that are parameters or of all.
PATTERNS = {"slack", "jira", "mail", "fetch", "time", "formats", "lengths"}
TEXT_FORMATS = {"qwen3_coder", "glm47", "laguna", "longcat", "minimax_m2", "minicpm5", "muse_spark"}
TEXT_FORMATS |= {"minimax_m3"}
UNSAYABLE: dict[str, set[str]] = dict.fromkeys(TEXT_FORMATS, PATTERNS | {"all_of", "any_of", "unicode"})
# Lists and objects, names with spaces, and types that its parser does not look for behind `anyOf` or `$ref`.
HOLDERS = {"todo", "ask", "fs_multi", "fs_edit", "graph", "definitions"}
HOLDERS |= {"tuple", "matrix", "map", "single", "deep", "relaxed"}
OPTIONAL = {"optional", "refs", "tree", "tagged", "mixed_enum", "nested_any", "query", "free", "words"}
UNSAYABLE["function_gemma"] = PATTERNS | HOLDERS | OPTIONAL
UNSAYABLE["function_gemma"] |= {"const", "all_of", "any_of", "unicode", "pattern_map"}
UNSAYABLE["gemma4"] = PATTERNS | {"pattern_map", "all_of"}
UNSAYABLE["kimi_k3"] = PATTERNS
# Names that are none to Python, and whatever is more than a list of members.
UNSAYABLE["pythonic"] = {"refs", "words", "all_of", "any_of"}


def draw(vocabulary: Vocabulary, grammar: Any, rng: random.Random) -> str:
    """Write a random text of the grammar; ends of strings and calls are preferred, so that it has an end."""
    matcher, written = grammar.begin(), b""
    ends = [*map(ord, '"}]<,:'), *vocabulary.special_tokens.values()]
    for _ in range(1200):
        if matcher.is_accepting() and (grammar.continues_as_text or rng.random() < 0.5):
            return written.decode()
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = [i for i in np.flatnonzero(bits).tolist() if i != 256]
        if not allowed and matcher.is_accepting():
            return written.decode()
        letters = [i for i in allowed if 32 <= i < 127] or allowed
        preferred = [i for i in ends if i in allowed]
        token = rng.choice(preferred) if preferred and rng.random() < 0.35 else rng.choice(letters)
        assert matcher.try_consume_tokens([token]), (written, token)
        written += vocabulary.bytes_of[token]
    return ""


@pytest.mark.parametrize("name", FORMATS)
def test_calls_drawn_from_the_grammar_are_read_and_valid(vocabulary: Vocabulary, name: str) -> None:
    calls, rng, num_read = tool_format(name), random.Random(1), 0
    assert calls.is_constrained
    grammars = GrammarCache(vocabulary)
    names = [tool for tool in SCHEMAS if tool not in UNSAYABLE.get(name, ())]
    step = trials(3, 1)
    names = names[FORMATS.index(name) % step :: step]
    for tool_name in names:
        tool = Tool(name=tool_name, input_schema=SCHEMAS[tool_name])
        grammar = grammars.compile(GrammarKey((tool,), calls, None))
        for _ in range(2):
            text = draw(vocabulary, grammar, rng).strip()
            if not text:
                continue
            found = read_calls(calls, text, [template_tool(tool)])
            assert found, text
            for called, arguments in found:
                assert called == tool_name
                jsonschema.validate(arguments, SCHEMAS[tool_name])
                num_read += 1
    assert num_read > trials(len(names) // 2, len(names))


def test_gemmas_lists_and_objects_may_take_several_lines(vocabulary: Vocabulary) -> None:
    """As Gemma 4 writes long ones. Source of the form: ollama's tests of its parser."""
    calls, schema = tool_format("gemma4"), SCHEMAS["fs_edit"]
    tool = Tool(name="fs_edit", input_schema=schema)
    items = '[\n  {oldText:<|"|>x , y\n<|"|>,\n   newText:<|"|> { <|"|> } ]'
    body = f'call:fs_edit{{path:<|"|>a: [b]<|"|>, edits: {items}}}'
    edits = [{"oldText": "x , y\n", "newText": " { "}]
    text = f"{calls.start}{body}{calls.end}"
    assert read_calls(calls, text, [template_tool(tool)]) == [("fs_edit", {"path": "a: [b]", "edits": edits})]


ODD: list[dict[str, Any]] = [
    {"properties": {"a": {"$ref": "#/$defs/X"}, "b": {"allOf": [{"type": "string"}]}}, "$defs": {"X": True}},
    {"properties": {"a": {"type": "string", "minLength": 50_000}}},
    {"properties": {"a": {"enum": []}, "b": None}},
]


@pytest.mark.parametrize("name", FORMATS)
def test_odd_schemas_hinder_no_call(vocabulary: Vocabulary, name: str) -> None:
    for odd in ODD:
        tool = Tool.model_construct(name="odd", input_schema={"type": "object", **odd}, type=None)
        assert GrammarCache(vocabulary).compile(GrammarKey((tool,), tool_format(name), None)).text


@pytest.mark.parametrize("name", FORMATS)
def test_a_definition_that_is_a_branch_of_itself_has_a_grammar(vocabulary: Vocabulary, name: str) -> None:
    """It was followed without end."""
    itself = {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "string"}]}
    schema = {"type": "object", "$defs": {"A": itself}, "properties": {"a": {"$ref": "#/$defs/A"}}}
    tool = Tool(name="read", input_schema=schema)
    grammar = GrammarCache(vocabulary).compile(GrammarKey((tool,), tool_format(name), None))
    assert any(grammar.begin().compute_bitmask())
