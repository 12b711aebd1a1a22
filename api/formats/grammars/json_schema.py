"""A client's JSON schemas, made ready for the grammar compiler: bounded, and with what it knows.

What llguidance does not implement is refused in a schema that the client wants an answer to conform to, and
left out of a tool's: a tool with a rule too many must still be callable, and its own program checks the rule.

    kept        what KEPT lists, in the schema's order, which is the order in which properties are written
    left out    annotations and unknown keywords, which JSON Schema says to ignore; formats other than FORMATS
    of tools    UNSUPPORTED is left out as well; `oneOf` is read as `anyOf`
    of answers  UNSUPPORTED is refused; `oneOf` is taken where its branches exclude one another
"""

import json
from collections.abc import Mapping
from typing import Any

from ...errors import InvalidRequest

MAX_DEPTH = 50  # schemas within schemas
MAX_PARTS = 20_000  # schemas and enumerated values
MAX_SQUARES = 2_000_000  # of properties an object: optional ones cost the compiler time by their square
MAX_CHARS = 256 * 1024  # as JSON, annotations left out

# Numbers without a bound get this one, and with it no exponent: 1e999 is JSON, but a number to no reader.
LARGEST = 1e18
NUMBER = {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}

# Stands where a schema says nothing; what llguidance would write there may hold such numbers.
ANY_NAME = "any-value"
ANY = {"$ref": f"#/$defs/{ANY_NAME}"}
ANY_VALUE = {
    "anyOf": [
        {"type": ["string", "boolean", "null"]},
        NUMBER,
        {"type": "array", "items": ANY},
        {"type": "object", "additionalProperties": ANY},
    ]
}

NAMING = frozenset({"$schema", "$id", "$anchor", "$defs", "definitions"})
MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions"})
LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
SCHEMAS = frozenset({"items", "additionalItems", "additionalProperties"})
BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
STRUCTURE = MAPS - {"patternProperties"} | LISTS - {"prefixItems"} | {"items", "additionalProperties"}
STRUCTURE |= {"type", "required", "enum", "const", "$ref", "$id", "$anchor"}
KEPT = STRUCTURE | MAPS | LISTS | SCHEMAS | BOUNDS
KEPT |= {"minLength", "maxLength", "pattern", "format", "multipleOf", "$schema"}
KEPT |= {"minItems", "maxItems", "minProperties", "maxProperties"}
UNSUPPORTED = frozenset(
    {
        *("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"),
        *("uniqueItems", "contains", "minContains", "maxContains", "propertyNames"),
        *("unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef"),
    }
)
FORMATS = frozenset(
    {"date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)

# No line breaks without end between the parts of a value: a model that is lost would write nothing else.
OPTIONS = {"whitespace_pattern": r"[ \n]{1,8}"}


def exact_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Rewrite the schema of an answer. Raises InvalidRequest for what cannot be enforced to the letter."""
    return _Rewriter(KEPT, exact=True).rewrite(schema)


def arguments_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Rewrite the schema of a tool's arguments. Raises InvalidRequest for one that is too large."""
    return _of_object(_Rewriter(KEPT).rewrite(schema))


def structure_only(schema: Mapping[str, Any]) -> dict[str, Any]:
    """As `arguments_schema`, for a schema that the compiler does not take: without bounds and patterns."""
    return _of_object(_Rewriter(STRUCTURE).rewrite(schema))


def any_arguments() -> dict[str, Any]:
    """Return the schema of arguments of which nothing is known but that they are an object."""
    return {"type": "object"}


def dump_schema(schema: Mapping[str, Any], escapes: str | None = None) -> str:
    """Write a schema for the compiler, with its options. Raises InvalidRequest when that is too long.

    escapes: the letters that may follow a backslash in strings, where not all of JSON's may.
    """
    options = OPTIONS if escapes is None else OPTIONS | {"json_allowed_escapes": escapes}
    text = json.dumps({**schema, "x-guidance": options}, ensure_ascii=False)
    if len(text) > MAX_CHARS:
        raise SchemaTooLarge
    return text


def _of_object(schema: dict[str, Any]) -> dict[str, Any]:
    """Make a schema of a tool say that arguments are an object, whatever else it says."""
    if schema.setdefault("type", "object") != "object":
        return {"type": "object"}
    return schema


class SchemaTooLarge(InvalidRequest):
    """A schema, or all of them together, are more than will be compiled."""

    def __init__(self) -> None:
        super().__init__("the JSON schema is too large or too deep", reason="schema")


class _Rewriter:
    """Copies one schema; what it has copied so far is counted.

    keywords: those to keep. exact: refuse what else would limit the values that conform.
    """

    def __init__(self, keywords: frozenset[str], *, exact: bool = False) -> None:
        self._keywords = keywords
        self._exact = exact
        self._num_parts = 0
        self._num_squares = 0
        self._num_filled = 0
        self._has_intersections = False

    def rewrite(self, schema: Any) -> dict[str, Any]:
        """Copy an object that is a schema."""
        self._has_intersections = '"allOf"' in json.dumps(schema)
        kept = self._copy(schema, 0, filled=True)
        if not self._num_filled:
            return kept
        return kept | {"$defs": {**kept.get("$defs", {}), ANY_NAME: ANY_VALUE}}

    def _copy(self, schema: Any, depth: int, filled: bool) -> dict[str, Any]:
        """filled: say of what nothing is said that it may be any value."""
        self._count(1)
        if depth > MAX_DEPTH:
            raise SchemaTooLarge
        if not isinstance(schema, Mapping):
            raise InvalidRequest("a JSON schema must be an object, true or false", reason="schema")
        kept = {
            key: self._value(key, value, depth, filled and not self._meets(schema, key))
            for key, value in schema.items()
            if self._keeps(key, value)
        }
        if "oneOf" in kept and not self._exact:
            kept["anyOf"] = kept.pop("oneOf")
        return self._fill(_bounded(kept)) if filled else _bounded(kept)

    def _meets(self, schema: Mapping[str, Any], key: str) -> bool:
        """Whether what stands under `key` is taken together with something else, to a schema of both."""
        if key in ("$defs", "definitions"):
            return self._has_intersections  # which may be of definitions
        return key == "allOf" or (key in ("anyOf", "oneOf") and "type" in schema)

    def _fill(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Put any value where a schema leaves open what may stand there."""
        more: dict[str, Any] = {}
        if _is_kind(schema, "object") and schema.get("additionalProperties", True) is True:
            more["additionalProperties"] = ANY
        if _is_kind(schema, "array") and schema.get("items", True) is True:
            more["items"] = ANY
        if not schema.keys() - NAMING:
            more |= ANY
        self._num_filled += len(more)
        return schema | more

    def _keeps(self, key: str, value: Any) -> bool:
        if self._exact and key in UNSUPPORTED and value is not False:
            raise InvalidRequest(f"the JSON schema's {key!r} is not supported", reason="schema")
        if key == "format":
            return value in FORMATS if isinstance(value, str) else False
        if key == "$schema":
            return isinstance(value, str) and "//json-schema.org/draft" in value
        return key in self._keywords

    def _value(self, key: str, value: Any, depth: int, filled: bool) -> Any:
        if key in MAPS and isinstance(value, Mapping):
            self._num_squares += len(value) ** 2
            return {name: self._schema(part, depth, filled) for name, part in value.items()}
        if key in LISTS | {"items"} and isinstance(value, list):
            return [self._schema(part, depth, filled) for part in value]
        if key in SCHEMAS:
            return self._schema(value, depth, filled)
        if key in ("enum", "required") and isinstance(value, list):
            self._count(len(value))
        return value

    def _schema(self, schema: Any, depth: int, filled: bool) -> Any:
        if schema is True and filled:
            schema = {}
        return schema if isinstance(schema, bool) else self._copy(schema, depth + 1, filled)

    def _count(self, num_parts: int) -> None:
        self._num_parts += num_parts
        if self._num_parts > MAX_PARTS or self._num_squares > MAX_SQUARES:
            raise SchemaTooLarge


def _bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """Bound numbers that have no bound of their own."""
    if not _is_kind(schema, "number") or schema.keys() & (BOUNDS | {"enum", "const", "multipleOf"}):
        return schema
    return {**NUMBER, **schema}


def _is_kind(schema: Mapping[str, Any], kind: str) -> bool:
    kinds = schema.get("type")
    return kind in kinds if isinstance(kinds, list) else kinds == kind
