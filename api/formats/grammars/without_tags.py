"""Schemas whose values hold no marks, for JSON that is read only after it was cut at marks."""

import json
import re
from collections import abc
from typing import Any

from .json_schema import LISTS, MAPS, SCHEMAS

BRANCHES = frozenset({"$ref", "anyOf", "allOf", "oneOf"})


def without_marks(schema: dict[str, Any], marks: abc.Sequence[str]) -> dict[str, Any]:
    """Rewrite a schema so that no string in a value of it holds a mark, keys of objects included.

    marks: each begins with a character that it holds once and that no other mark holds elsewhere.
    """
    return _copy(schema, marks) if marks else schema


def _copy(schema: Any, marks: abc.Sequence[str]) -> Any:
    if not isinstance(schema, dict):
        return schema
    kept = {key: _part(key, value, marks) for key, value in schema.items()}
    named = schema.get("type", ())
    kinds = [named] if isinstance(named, str) else named
    if ("string" in kinds or ("type" not in schema and not schema.keys() & BRANCHES)) and _has_others(
        schema, marks
    ):
        kept["allOf"] = [*kept.get("allOf", ()), {"pattern": _none_of(marks)}]
    if "object" in kinds and schema.get("additionalProperties", True) is not False:
        names = {"|".join(map(re.escape, marks)): False}
        kept["patternProperties"] = kept.get("patternProperties", {}) | names
    return kept


def _part(key: str, value: Any, marks: abc.Sequence[str]) -> Any:
    if key in MAPS and isinstance(value, dict):
        return {name: _copy(part, marks) for name, part in value.items()}
    if key in LISTS | {"items"} and isinstance(value, list):
        return [_copy(part, marks) for part in value]
    return _copy(value, marks) if key in SCHEMAS else value


def _has_others(schema: dict[str, Any], marks: abc.Sequence[str]) -> bool:
    """Whether values remain when those with marks are left out: something must be left to write."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list):
        return True
    return any(not any(mark in json.dumps(value) for mark in marks) for value in values)


def _none_of(marks: abc.Sequence[str]) -> str:
    """Write a regular expression for texts without the marks: llguidance's have no look-ahead."""
    first = "".join(sorted({re.escape(mark[0]) for mark in marks}))
    after = _not_beginning([mark[1:] for mark in marks], first)
    return f"^[^{first}]*([{first}]{after})*$"


def _not_beginning(ends: abc.Sequence[str], first: str) -> str:
    """Write what may stand between one first character of a mark and the next."""
    letters = sorted({end[0] for end in ends})
    some = "".join(map(re.escape, letters))
    choices = [f"[^{first}{some}][^{first}]*"]
    for letter in letters:
        rest = [end[1:] for end in ends if end[0] == letter]
        if "" not in rest:
            choices.append(f"{re.escape(letter)}{_not_beginning(rest, first)}")
    return f"({'|'.join(choices)})?"
