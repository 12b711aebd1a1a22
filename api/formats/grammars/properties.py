"""The grammar of a tool's arguments, in whatever order the model writes them.

llguidance keeps the properties of an object in the schema's order. But Claude Code sends earlier calls back
in an order of its own, which the model then goes on with; a model made to begin otherwise goes astray. So the
members of the outermost object are rules of our own, told apart by bits: each at most once, the required ones
at least once. Source of the idea: llguidance's docs/parametric.md.
"""

import json
from collections import abc
from collections.abc import Callable, Iterator
from typing import Any

from .json_schema import dump_schema
from .lark import Lark, literal

MAX_MEMBERS = 60  # of 64 bits

# What stands around members, for whoever writes the grammar to define.
PUNCTUATION = {
    "OPEN": r"/\{[ \n]{0,8}/",
    "CLOSE": r"/[ \n]{0,8}\}/",
    "COMMA": r"/[ \n]{0,8},[ \n]{0,8}/",
    "COLON": r"/[ \n]{0,8}:[ \n]{0,8}/",
}

MAX_REPEATED_CHARS = 32 * 1024  # of definitions, which every member that may refer to them gets

INHERITED = ("$schema", "$defs", "definitions")  # what the schema of a member needs of the outer one
OUTER = frozenset({"type", "properties", "required", "additionalProperties", *INHERITED})

Member = Callable[[Lark, str, dict[str, Any]], str]
"""Defines the rule for one member, of a name and a schema, and returns its body."""


def json_arguments(lark: Lark, schema: dict[str, Any]) -> str:
    """Define the rule for a JSON object; in any order where the schema is no more than a list of members."""
    if not is_list_of_members(schema):
        return lark.json(dump_schema(schema))
    return lark.new(f"OPEN {any_order(lark, schema, _json_member, separator='COMMA', end='CLOSE')}")


def any_order(lark: Lark, schema: dict[str, Any], member: Member, separator: str, end: str) -> str:
    """Define the rules for an object's members and their end, and return what begins them.

    separator: stands between members; empty for none.
    """
    required, properties = set(schema.get("required", ())), schema.get("properties", {})
    names = sorted(properties, key=lambda name: name not in required)  # the required ones have the first bits
    rest = lark.name()
    bodies = [member(lark, name, member_schema(schema, properties[name])) for name in names]
    choices = [f"{body} {rest}::set_bit({i}) %if bit_clear({i})" for i, body in enumerate(bodies)]
    more = schema.get("additionalProperties", True)
    if separator and more is not False:
        choices.append(f"{_extra_member(lark, names, member_schema(schema, more))} {rest}::_")
    last = f"{end} %if is_ones([0:{len(required)}])" if required else end
    lark.rule(f"{rest}::_", " | ".join([last, *(f"{separator} {choice}" for choice in choices)]))
    if not separator:
        return f"{rest}::0x0"
    first = lark.name()
    lark.rule(f"{first}::_", " | ".join([last, *choices]))
    return f"{first}::0x0"


def is_list_of_members(schema: dict[str, Any]) -> bool:
    """Whether nothing but its members is said of an object, and each can be looked at alone."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    return (
        schema.keys() <= OUTER
        and isinstance(properties, dict)
        and 0 < len(properties) <= MAX_MEMBERS
        and False not in properties.values()
        and isinstance(required, list)
        and set(required) <= properties.keys()
        and _num_repeated_chars(schema) <= MAX_REPEATED_CHARS
        and all(ref.startswith(("#/$defs/", "#/definitions/")) for ref in references(schema))
    )


def listed_members(schema: dict[str, Any], can_write: Callable[[str], object]) -> dict[str, Any]:
    """Reduce a schema to a list of members, of which no more may be known than their names.

    can_write: whether a format can say a member's name.
    """
    is_known, properties = is_list_of_members(schema), schema.get("properties")
    named = properties if isinstance(properties, dict) else {}
    members = {name: value if is_known else {} for name, value in named.items() if can_write(name)}
    kept = dict(list(members.items())[:MAX_MEMBERS])
    required = [name for name in schema.get("required", ()) if name in kept]
    return schema | {"properties": kept, "required": required}


def member_schema(schema: dict[str, Any], member: Any) -> dict[str, Any]:
    """Make a schema of a member's own, with the definitions that it may refer to."""
    if member is True:
        return {}
    refers = next(references(member), None) is not None
    inherited = INHERITED if refers else INHERITED[:1]
    return {**{key: schema[key] for key in inherited if key in schema}, **member}


def references(schema: Any) -> Iterator[str]:
    """List where a schema refers to."""
    parts = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    if isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
        yield schema["$ref"]
    for part in parts:
        yield from references(part)


def _num_repeated_chars(schema: dict[str, Any]) -> int:
    definitions = [schema[key] for key in INHERITED[1:] if key in schema]
    return len(schema.get("properties", {})) * len(json.dumps(definitions)) if definitions else 0


def _json_member(lark: Lark, name: str, schema: dict[str, Any]) -> str:
    return f"{literal(literal(name))} COLON {lark.json(dump_schema(schema))}"


def _extra_member(lark: Lark, names: abc.Sequence[str], schema: dict[str, Any]) -> str:
    """Define the rule for a member that the schema does not name. Its name has no escapes: one could hide."""
    known = " | ".join(literal(literal(name)) for name in names)
    name = r'/"[^"\\\x00-\x1f]*"/' + (f" & ~({known})" if known else "")
    return f"{lark.new(name, 'NAME')} COLON {lark.json(dump_schema(schema))}"
