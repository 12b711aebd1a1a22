"""Schemas that nothing can be kept to: too large, endless, senseless, or of what is not known."""

from typing import Any

from ...schemas import record


def nested(depth: int) -> dict[str, Any]:
    return record("a", a=nested(depth - 1)) if depth else {"type": "string"}


# Of these the rest is enforced, or any value taken where there is no rest.
LOOSENED = {"elsewhere", "nowhere", "a negation", "a condition", "unique items", "a look ahead"}
LOOSENED |= {"no regular expression", "an unknown type", "a huge divisor", "no schema"}

HOSTILE: dict[str, Any] = {
    "too deep": nested(80),
    "too many properties": record(**{f"p{i}": {} for i in range(5000)}),
    "too many values": {"enum": list(range(100_000))},
    "too long": {"enum": ["x" * 100_000 + str(i) for i in range(10)]},
    "a branch that explodes": {
        "allOf": [{"anyOf": [record(**{f"a{i}": {"const": j}}) for j in range(4)]} for i in range(10)]
    },
    "itself": {"$ref": "#"},
    "a ring": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "elsewhere": {"$ref": "https://example.com/schema.json"},
    "nowhere": {"$ref": "#/$defs/none"},
    "a negation": {"not": {"type": "string"}},
    "a condition": {"if": {}, "then": {}},
    "unique items": {"type": "array", "uniqueItems": True},
    "a look ahead": {"type": "string", "pattern": "^(?=a)b"},
    "no regular expression": {"type": "string", "pattern": "("},
    "an unknown type": {"type": "strin"},
    "no value at all": {"type": "string", "const": 5},
    "a huge divisor": {"type": "integer", "multipleOf": 982451653},
    "no schema": {"properties": {"a": 5}},
}
