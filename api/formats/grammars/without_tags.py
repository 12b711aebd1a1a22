"""Rewrites schemas for JSON between tags: their values hold none of the tags."""

import json
import re
from collections import abc
from typing import Any

from .json_schema import LISTS, MAPS, SCHEMAS, Schema

BRANCHES = frozenset({"$ref", "anyOf", "allOf", "oneOf"})


def without_tags(schema: Schema, tags: abc.Sequence[str]) -> Schema:
    """Rewrite a schema so that no string and no key in its values holds a tag.

    tags: the first character of a tag occurs in tags only at their beginning.
    """
    return _copy(schema, tags) if tags else schema


def _copy(schema: Any, tags: abc.Sequence[str]) -> Any:
    if not isinstance(schema, dict):
        return schema
    kept = {key: _part(key, value, tags) for key, value in schema.items()}
    named = schema.get("type", ())
    kinds = [named] if isinstance(named, str) else named
    if ("string" in kinds or ("type" not in schema and not schema.keys() & BRANCHES)) and _allows_others(
        schema, tags
    ):
        kept["allOf"] = [*kept.get("allOf", ()), {"pattern": _none_of(tags)}]
    if "object" in kinds and schema.get("additionalProperties", True) is not False:
        names = {"|".join(map(re.escape, tags)): False}
        kept["patternProperties"] = kept.get("patternProperties", {}) | names
    return kept


def _part(key: str, value: Any, tags: abc.Sequence[str]) -> Any:
    if key in MAPS and isinstance(value, dict):
        return {name: _copy(part, tags) for name, part in value.items()}
    if key in LISTS | {"items"} and isinstance(value, list):
        return [_copy(part, tags) for part in value]
    return _copy(value, tags) if key in SCHEMAS else value


def _allows_others(schema: Schema, tags: abc.Sequence[str]) -> bool:
    """Whether the schema allows a value without tags. If not, tags stay allowed: some value must be."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list):
        return True
    return any(not any(tag in json.dumps(value) for tag in tags) for value in values)


def _none_of(tags: abc.Sequence[str]) -> str:
    """Write a regular expression for texts without the tags; llguidance's have no look-ahead."""
    first = "".join(sorted({re.escape(tag[0]) for tag in tags}))
    after = _not_beginning([tag[1:] for tag in tags], first)
    return f"^[^{first}]*([{first}]{after})*$"


def _not_beginning(ends: abc.Sequence[str], first: str) -> str:
    """Write the pattern for the text from after a tag's first character to the next such character."""
    letters = sorted({end[0] for end in ends})
    some = "".join(map(re.escape, letters))
    choices = [f"[^{first}{some}][^{first}]*"]
    for letter in letters:
        rest = [end[1:] for end in ends if end[0] == letter]
        if "" not in rest:
            choices.append(f"{re.escape(letter)}{_not_beginning(rest, first)}")
    return f"({'|'.join(choices)})?"
