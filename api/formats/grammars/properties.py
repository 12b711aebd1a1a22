"""The grammar of a tool's arguments, in any order.

llguidance requires the properties of an object in the schema's order. But Claude Code sends earlier calls
back in an order of its own, which the model imitates; a model that is forced into another order goes astray.
So this module writes the rules for the properties of the outermost object, with a bit for each: a property
at most once, required properties at least once. Source of the idea: llguidance's docs/parametric.md.
"""

import json
from collections import abc
from collections.abc import Callable, Iterator
from typing import Any

from .json_schema import Schema, dump_schema
from .lark import Lark, literal

MAX_PROPERTIES = 60  # of 64 bits

# Lexemes that the rules of arguments and of calls use; `answer_grammar.py` defines them once a grammar.
PUNCTUATION = {
    "OPEN": r"/\{[ \t\n]{0,12}/",
    "CLOSE": r"/[ \t\n]{0,12}\}/",
    "COMMA": r"/[ \t\n]{0,12},[ \t\n]{0,12}/",
    "SEMICOLON": r"/[ \t\n]{0,12};[ \t\n]{0,12}/",
    "COLON": r"/[ \t\n]{0,12}:[ \t\n]{0,12}/",
    "SPACE": r"/[ \n]{0,4}/",
    "LINE": r"/\n?/",
}

MAX_REPEATED_CHARS = 32 * 1024  # of definitions, which are repeated for every property that may refer to them

# Keywords that the schema of a property inherits from the object's schema.
INHERITED = ("$schema", "$defs", "definitions")
OUTER = frozenset({"type", "properties", "required", "additionalProperties", *INHERITED})

WriteProperty = Callable[[Lark, str, Schema], str]
"""Defines the rules for one property, of a name and a schema, and returns the body that uses them."""


def json_arguments(lark: Lark, schema: Schema) -> str:
    """Define the rule for a JSON object; of a property list, the properties come in any order."""
    if not is_property_list(schema):
        return lark.json(dump_schema(schema))
    return lark.new(f"OPEN {any_order(lark, schema, _json_property, separator='COMMA', end='CLOSE')}")


def any_order(lark: Lark, schema: Schema, write: WriteProperty, separator: str, end: str) -> str:
    """Define the rules for an object's properties and their end, and return the reference to the first rule.

    write: defines the rules of one property. separator: between properties; empty for none.
    """
    required, properties = set(schema.get("required", ())), schema.get("properties", {})
    names = sorted(properties, key=lambda name: name not in required)  # the required ones have the first bits
    rest = lark.name()
    bodies = [write(lark, name, property_schema(schema, properties[name])) for name in names]
    choices = [f"{body} {rest}::set_bit({i}) %if bit_clear({i})" for i, body in enumerate(bodies)]
    more = schema.get("additionalProperties", True)
    if separator and more is not False:
        choices.append(f"{_extra_property(lark, names, property_schema(schema, more))} {rest}::_")
    last = f"{end} %if is_ones([0:{len(required)}])" if required else end
    lark.rule(f"{rest}::_", " | ".join([last, *(f"{separator} {choice}" for choice in choices)]))
    if not separator:
        return f"{rest}::0x0"
    first = lark.name()
    lark.rule(f"{first}::_", " | ".join([last, *choices]))
    return f"{first}::0x0"


def is_property_list(schema: Schema) -> bool:
    """Whether a schema only lists an object's properties, each with a schema of its own."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    return (
        schema.keys() <= OUTER
        and isinstance(properties, dict)
        and 0 < len(properties) <= MAX_PROPERTIES
        and False not in properties.values()
        and isinstance(required, list)
        and set(required) <= properties.keys()
        and _num_repeated_chars(schema) <= MAX_REPEATED_CHARS
        and all(ref.startswith(("#/$defs/", "#/definitions/")) for ref in references(schema))
    )


def listed_properties(schema: Schema, can_write: Callable[[str], object]) -> Schema:
    """Reduce a schema to a property list. If it was not one, its properties may have any value.

    can_write: whether the format can write a property's name; other properties are left out.
    """
    is_known, properties = is_property_list(schema), schema.get("properties")
    named = properties if isinstance(properties, dict) else {}
    writable = {name: value if is_known else {} for name, value in named.items() if can_write(name)}
    kept = dict(list(writable.items())[:MAX_PROPERTIES])
    required = [name for name in schema.get("required", ()) if name in kept]
    return schema | {"properties": kept, "required": required}


def property_schema(schema: Schema, part: Any) -> Schema:
    """Return a property's schema `part`, with the definitions of the object's schema that it may refer to."""
    if part is True:
        return {}
    refers = next(references(part), None) is not None
    inherited = INHERITED if refers else INHERITED[:1]
    return {**{key: schema[key] for key in inherited if key in schema}, **part}


def references(schema: Any) -> Iterator[str]:
    """Yield the references in a schema."""
    parts = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    if isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
        yield schema["$ref"]
    for part in parts:
        yield from references(part)


def _num_repeated_chars(schema: Schema) -> int:
    definitions = [schema[key] for key in INHERITED[1:] if key in schema]
    return len(schema.get("properties", {})) * len(json.dumps(definitions)) if definitions else 0


def _json_property(lark: Lark, name: str, schema: Schema) -> str:
    return f"{literal(literal(name))} COLON {lark.json(dump_schema(schema))}"


def _extra_property(lark: Lark, names: abc.Sequence[str], schema: Schema) -> str:
    """Define the rule for a property that the schema does not name.

    Its name has no escapes: with them it could spell a name of the schema.
    """
    known = " | ".join(literal(literal(name)) for name in names)
    name = r'/"[^"\\\x00-\x1f]*"/' + (f" & ~({known})" if known else "")
    return f"{lark.new(name, 'NAME')} COLON {lark.json(dump_schema(schema))}"
