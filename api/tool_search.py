"""Finds tools whose loading is deferred, by a pattern or by words, for a model that searches for them.

Names, descriptions, and names and descriptions of arguments are searched, as by Anthropic's own two tools.
"""

import math
import re
from collections import Counter, abc
from collections.abc import Iterator
from typing import Any

from pydantic_core import SchemaError, SchemaValidator, core_schema

from .schema import Tool

MAX_FOUND = 5  # as many as Anthropic's tools give
MAX_PATTERN_CHARS = 200  # as there
MAX_QUERY_CHARS = 500
MAX_DEPTH = 8  # of arguments that are objects
MAX_TEXT_CHARS = 20_000  # of one tool

WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_]+")

SATURATION, LENGTH_WEIGHT = 1.2, 0.75  # the usual constants of BM25
NAME_WEIGHT = 3  # a word of a tool's name counts as if it occurred so often


class BadQuery(Exception):
    """A query that cannot be read; its text is for the model."""


def find_by_pattern(tools: abc.Sequence[Tool], pattern: str) -> list[str]:
    """Return the names of the tools in which a regular expression is found, those with it in the name first.

    Only where it is found nowhere, letters of either size are the same. The expressions are those of a
    library that takes time linear in the text: no pattern of a model's can stop the server. Raises BadQuery.
    """
    if not pattern or len(pattern) > MAX_PATTERN_CHARS:
        raise BadQuery(f"The pattern must have between 1 and {MAX_PATTERN_CHARS} characters.")
    texts = [(tool.name, "\n".join(_texts(tool))) for tool in tools]
    for flags in ("", "(?i)"):
        try:
            schema = core_schema.str_schema(pattern=flags + pattern, regex_engine="rust-regex")
            matches = SchemaValidator(schema).isinstance_python
        except SchemaError as error:
            reason = str(error).rpartition("error:")[2].strip()
            raise BadQuery(f"The pattern cannot be read: {reason[:200]}") from None
        named = [name for name, _ in texts if matches(name)]
        in_name = set(named)
        found = named + [name for name, text in texts if name not in in_name and matches(text)]
        if found:
            return found[:MAX_FOUND]
    return []


def find_by_words(tools: abc.Sequence[Tool], query: str) -> list[str]:
    """Return the names of the tools that a query's words fit best, by BM25. Raises BadQuery."""
    wanted = set(_words(query[:MAX_QUERY_CHARS]))
    if not wanted:
        raise BadQuery("The query has no words.")
    counts = [Counter(_words(tool.name) * NAME_WEIGHT + _words("\n".join(_texts(tool)))) for tool in tools]
    lengths = [sum(count.values()) for count in counts]
    average = max(1.0, sum(lengths) / max(1, len(lengths)))
    spread = {word: sum(word in count for count in counts) for word in wanted}
    scores = []
    for count, length in zip(counts, lengths, strict=True):
        norm = SATURATION * (1 - LENGTH_WEIGHT + LENGTH_WEIGHT * length / average)
        scores.append(
            sum(
                math.log(1 + (len(tools) - spread[word] + 0.5) / (spread[word] + 0.5))
                * (count[word] * (SATURATION + 1) / (count[word] + norm))
                for word in wanted
            )
        )
    ranked = sorted(range(len(tools)), key=lambda place: -scores[place])  # stable: equal ones as they came
    return [tools[place].name for place in ranked[:MAX_FOUND] if scores[place] > 0]


def _words(text: str) -> list[str]:
    """Return a text's words in small letters, with the parts of names such as getUser and get_user apart."""
    return [word.lower() for word in WORD.findall(text)]


def _texts(tool: Tool) -> list[str]:
    """Return a tool's texts, all but its name, cut to a bound."""
    kept, num_chars = [], 0
    for text in (tool.description or "", *_argument_texts(tool.input_schema, 0)):
        kept.append(text[: MAX_TEXT_CHARS - num_chars])
        num_chars += len(kept[-1])
    return kept


def _argument_texts(schema: Any, depth: int) -> Iterator[str]:
    """Yield the names and descriptions of a schema's properties, and of theirs."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or depth > MAX_DEPTH:
        return
    for name, inner in properties.items():
        yield str(name)
        if isinstance(inner, dict):
            description = inner.get("description")
            yield description if isinstance(description, str) else ""
            yield from _argument_texts(inner, depth + 1)
            yield from _argument_texts(inner.get("items"), depth + 1)
