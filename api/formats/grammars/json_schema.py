"""Rewrites a client's JSON schemas for the grammar compiler: bounds their size and keeps supported keywords.

A keyword that llguidance does not implement is left out: a tool must still be callable, an answer still have
its structure, and the client checks both. Who compiles a schema says in the log what was left out.

    kept        keywords in KEPT, in the schema's order, which is the order in which properties are written
    left out    annotations and unknown keywords, which JSON Schema says to ignore; formats beyond FORMATS;
                UNSUPPORTED, where `plain_keywords.py` knows no other words for it; patterns that look around
    read as     `oneOf` as `anyOf`, of answers only where it does not compile
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .plain_keywords import is_never, plainer

Schema = dict[str, Any]

MAX_DEPTH = 50  # schemas within schemas
MAX_PARTS = 20_000  # schemas and enumerated values
# The sum of the squares of objects' numbers of properties: the compiler's time grows with it.
MAX_SQUARES = 2_000_000
MAX_CHARS = 256 * 1024  # as JSON, annotations left out

# The bound of numbers whose schema has none. It also excludes exponents: 1e999 is JSON that no reader holds.
LARGEST = 1e18
NUMBER = {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}

# Replaces schemas that allow any value, because llguidance's own "any value" includes unbounded numbers.
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
LIMITING = UNSUPPORTED | (KEPT - NAMING)
FORMATS = frozenset(
    {"date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)

# What the compiler may fail on, in the order in which it is left out of an answer's schema, step by step.
FRAGILE = ({"minProperties", "maxProperties"}, {"pattern", "format", "multipleOf", "patternProperties"})

# Look-ahead and look-behind, references back to groups, and borders of words.
BEYOND_REGULAR = re.compile(r"\(\?(?:<?[=!])|(?<!\\)(?:\\\\)*\\(?:[1-9]|[bBk])")

# Bounded space between the parts of a value: a model that goes astray writes line breaks without end.
OPTIONS = {"whitespace_pattern": r"[ \n]{1,8}"}


def exact_schema(schema: Mapping[str, Any]) -> Schema:
    """Rewrite the schema of an answer. Raises SchemaError if it is malformed or too large."""
    return next(answer_schemas(schema))[0]


def answer_schemas(schema: Mapping[str, Any]) -> Iterator[tuple[Schema, set[str]]]:
    """Yield rewrites of an answer's schema, each looser than the one before, with what each leaves out.

    Raises SchemaError if the schema is malformed or too large.
    """
    keywords = KEPT
    rungs = [(keywords, True), (keywords, False)]
    for fragile in FRAGILE:
        keywords -= fragile
        rungs.append((keywords, False))
    for keywords, keeps_one_of in [*rungs, (STRUCTURE, False)]:
        rewriter = _Rewriter(keywords, keeps_one_of=keeps_one_of)
        yield rewriter.rewrite(schema), rewriter.left_out


def arguments_schema(schema: Mapping[str, Any]) -> Schema:
    """Rewrite the schema of a tool's arguments. Raises SchemaError if it is malformed or too large."""
    return _of_object(_Rewriter(KEPT).rewrite(schema))


def left_out_of(schema: Mapping[str, Any]) -> set[str]:
    """Return the keywords that `arguments_schema` leaves out, of those that limit values."""
    rewriter = _Rewriter(KEPT)
    rewriter.rewrite(schema)
    return rewriter.left_out


def structure_only(schema: Mapping[str, Any]) -> Schema:
    """Rewrite as `arguments_schema` does, without bounds and patterns, on which the compiler may fail."""
    return _of_object(_Rewriter(STRUCTURE).rewrite(schema))


def any_arguments() -> Schema:
    """Return the schema of any arguments."""
    return {"type": "object"}


def dump_schema(schema: Mapping[str, Any], escapes: str | None = None) -> str:
    """Write a schema and the compiler's options as JSON. Raises SchemaTooLarge when the text is too long.

    escapes: the letters that may follow a backslash in strings; None for all of JSON's.
    """
    options = OPTIONS if escapes is None else OPTIONS | {"json_allowed_escapes": escapes}
    text = json.dumps({**schema, "x-guidance": options}, ensure_ascii=False)
    if len(text) > MAX_CHARS:
        raise SchemaTooLarge
    return text


def _of_object(schema: Schema) -> Schema:
    """Return a schema with the type `object`; where it names another type, a schema of any object."""
    if schema.setdefault("type", "object") != "object":
        return {"type": "object"}
    return schema


class SchemaError(ValueError):
    """A JSON schema cannot be enforced."""


class SchemaTooLarge(SchemaError):
    """A schema, or the grammar of all schemas of a request, exceeds the compiler's bounds."""

    def __init__(self) -> None:
        super().__init__("the JSON schema is too large or too deep")


class _Rewriter:
    """Copies one schema and counts its parts.

    keywords: the keywords to keep. keeps_one_of: do not read `oneOf` as `anyOf`.
    left_out: keywords that limit the values that conform, but were left out.
    """

    def __init__(self, keywords: frozenset[str], *, keeps_one_of: bool = False) -> None:
        self.left_out: set[str] = set()
        self._keywords = keywords
        self._keeps_one_of = keeps_one_of
        self._num_parts = 0
        self._num_squares = 0
        self._num_filled = 0
        self._has_intersections = False

    def rewrite(self, schema: Any) -> Schema:
        """Copy a schema."""
        self._has_intersections = '"allOf"' in json.dumps(schema)
        kept = self._copy(schema, 0, filled=True)
        if not self._num_filled:
            return kept
        return kept | {"$defs": {**kept.get("$defs", {}), ANY_NAME: ANY_VALUE}}

    def _copy(self, schema: Any, depth: int, filled: bool) -> Schema:
        """Copy a schema within a schema. filled: write ANY where the schema allows any value."""
        self._count(1)
        if depth > MAX_DEPTH:
            raise SchemaTooLarge
        if not isinstance(schema, Mapping):
            raise SchemaError("a JSON schema must be an object, true or false")
        schema = plainer(schema)
        kept = {
            key: self._value(key, value, depth, filled and not self._is_intersected(schema, key))
            for key, value in schema.items()
            if self._keeps(key, value)
        }
        if "oneOf" in kept and not self._keeps_one_of:
            branches = kept.pop("oneOf")
            if "anyOf" in kept:
                self.left_out.add("oneOf")
            else:
                kept["anyOf"] = branches
        return self._fill(_bounded(kept)) if filled else _bounded(kept)

    def _is_intersected(self, schema: Mapping[str, Any], key: str) -> bool:
        """Whether the compiler intersects the schemas under `key` with others; then ANY would not compile."""
        if key in ("$defs", "definitions"):
            return self._has_intersections  # an intersection may refer to a definition
        return key == "allOf" or (key in ("anyOf", "oneOf") and "type" in schema)

    def _fill(self, schema: Schema) -> Schema:
        """Write ANY where a schema allows any property, item or value."""
        more: Schema = {}
        if _names_type(schema, "object") and schema.get("additionalProperties", True) is True:
            more["additionalProperties"] = ANY
        if _names_type(schema, "array") and schema.get("items", True) is True:
            more["items"] = ANY
        if not schema.keys() - NAMING:
            more |= ANY
        self._num_filled += len(more)
        return schema | more

    def _keeps(self, key: str, value: Any) -> bool:
        if key == "format" and not (isinstance(value, str) and value in FORMATS):
            return False
        if key == "$schema":
            return isinstance(value, str) and "//json-schema.org/draft" in value
        is_regular = key != "pattern" or not (isinstance(value, str) and BEYOND_REGULAR.search(value))
        is_kept = key in self._keywords and is_regular
        if not is_kept and key in LIMITING and value is not False:
            self.left_out.add(key)
        return is_kept

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
        if is_never(schema):
            return False
        if schema is True and filled:
            schema = {}
        return schema if isinstance(schema, bool) else self._copy(schema, depth + 1, filled)

    def _count(self, num_parts: int) -> None:
        self._num_parts += num_parts
        if self._num_parts > MAX_PARTS or self._num_squares > MAX_SQUARES:
            raise SchemaTooLarge


def _bounded(schema: Schema) -> Schema:
    """Bound a schema's numbers, unless the schema bounds them itself."""
    if not _names_type(schema, "number") or schema.keys() & (BOUNDS | {"enum", "const", "multipleOf"}):
        return schema
    return {**NUMBER, **schema}


def _names_type(schema: Mapping[str, Any], kind: str) -> bool:
    kinds = schema.get("type")
    return kind in kinds if isinstance(kinds, list) else kinds == kind
