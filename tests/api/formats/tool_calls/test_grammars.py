"""Every format's grammar is read by mlx-lm's parser of it, and what it reads conforms to the tool's schema.

Calls are drawn at random from the grammar itself: any token that the mask allows, ends preferred.
"""

import random
import re
from typing import Any

import jsonschema
import numpy as np
import pytest

from pensieve.api.formats.tool_calls.registry import SYNTAXES
from pensieve.api.formats.tool_calls.template_tools import template_tool
from pensieve.api.grammar.grammar_cache import GrammarCache, GrammarKey
from pensieve.api.grammar.vocabulary import Vocabulary
from pensieve.api.schema import Tool

from ....budget import trials
from ....schemas import SCHEMAS
from .known_formats import tool_format

FORMATS = [name for name, syntax in SYNTAXES.items() if syntax.define_rule] + ["laguna"]

# What these formats cannot say: patterns and formats of strings, names with spaces, and types that their
# parsers do not look for behind `anyOf` or `$ref`.
JSON_ONLY = {"slack", "jira", "mail", "fetch", "time", "formats", "lengths", "unicode", "words", "const"}
JSON_ONLY |= {
    "optional",
    "refs",
    "tree",
    "tagged",
    "mixed_enum",
    "nested_any",
    "query",
    "free",
    "pattern_map",
}
JSON_ONLY |= {"all_of", "any_of", "pattern_map"}
TEXT_FORMATS = {"qwen3_coder", "glm47", "laguna", "longcat", "minimax_m2", "minicpm5"}

# Of the other formats, each by itself.
UNSAYABLE: dict[str, set[str]] = dict.fromkeys(TEXT_FORMATS, JSON_ONLY)
# Lists and objects.
HOLDERS = ["todo", "ask", "fs_multi", "fs_edit", "graph", "definitions"]
HOLDERS += ["tuple", "matrix", "map", "single", "deep", "relaxed"]
UNSAYABLE["function_gemma"] = JSON_ONLY | set(HOLDERS)
# Patterns and formats of strings, patterns of names, and `allOf`.
UNSAYABLE["gemma4"] = {
    "slack",
    "jira",
    "mail",
    "fetch",
    "time",
    "formats",
    "lengths",
    "pattern_map",
    "all_of",
}
# Patterns and formats of strings that are parameters; Muse's arguments are but a list of members.
UNSAYABLE["kimi_k3"] = {"slack", "jira", "fetch", "time", "formats", "lengths", "mail"}
UNSAYABLE["muse_spark"] = UNSAYABLE["kimi_k3"] | {"all_of", "any_of", "unicode"}
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
            assert text.startswith(calls.start)
            inner = text.removeprefix(calls.start).removesuffix(calls.end)
            inner = re.sub(r"\[CALL_ID\]\w{9}", "", inner)  # mlx-lm takes the id for the name
            parsed = calls.parser(inner, [template_tool(tool)])
            for call in parsed if isinstance(parsed, list) else [parsed]:
                assert call["name"] == tool_name
                jsonschema.validate(call["arguments"], SCHEMAS[tool_name])
                num_read += 1
    assert num_read > trials(len(names) // 2, len(names))


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
