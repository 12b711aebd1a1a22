"""Calls with the tool's name in a header before the JSON of their arguments, declared by the form of one."""

import re
from collections import abc
from functools import partial

from ..grammars.callable_tool import CallableTool
from ..grammars.lark import Lark, literal
from ..grammars.properties import json_arguments
from ..readers.header_calls import HeaderCalls
from .call_syntax import CallSyntax

PLACES = re.compile("(NAME|ID|INDEX)")
WORD_BEGINS = r"(?<![^\s<>|])"  # a name is not looked for from within a word, at each of its letters
READ = {"NAME": r"([^\s<>|]+?)", "ID": r"[\w.:-]*", "INDEX": r"\d+"}
WRITTEN = {"ID": "/[a-zA-Z0-9_.:-]{0,64}/", "INDEX": "/[0-9]{1,3}/"}


def header_syntax(name: str, form: str, between: str | None = "") -> CallSyntax:
    """Describe a format by the form of one call, with NAME, ID, INDEX and ARGS in their places.

    between: stands between the calls of one body; None where it holds one call.
    """
    head, _, end = form.partition("ARGS")
    parts = [part for part in PLACES.split(head) if part]
    pattern = r"\s*".join(READ.get(part) or re.escape(part) for part in parts)
    pattern = WORD_BEGINS + pattern if parts[0] == "NAME" else pattern

    def define_rule(lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
        rules = [json_arguments(lark, tool.schema) for tool in tools]
        close = f" SPACE {lark.tag(end)}" if end else ""
        calls = [
            f"{_head(lark, parts, tool.name)} SPACE {rule}{close}"
            for tool, rule in zip(tools, rules, strict=True)
        ]
        call = lark.one_of(calls)
        if between is None:
            return call
        return lark.new(f"{call} (SPACE {lark.tag(between) if between else ''} {call})*")

    return CallSyntax(name, partial(HeaderCalls, re.compile(pattern)), define_rule)


def _head(lark: Lark, parts: abc.Sequence[str], name: str) -> str:
    return " ".join(
        literal(name) if part == "NAME" else WRITTEN.get(part) or lark.tag(part) for part in parts
    )
