"""Calls as plain JSON: `{"name": "read", "arguments": {…}}`, with other keys, in lists, or by name alone."""

from collections import abc
from dataclasses import dataclass, replace
from typing import Any

from ...protocols import ToolParser
from ..grammars.callable_tool import CallableTool
from ..grammars.lark import Lark, literal
from ..grammars.properties import json_arguments
from ..json_text import dump
from ..readers.call_reader import CallReader, tool_names
from ..readers.json_calls import JsonCalls, KeyedJsonCalls
from .call_syntax import CallSyntax

# What may stand beside name and arguments, such as an id.
BESIDE = (
    r'/"(id|type|index|tool_call_id)"[ \t\n]{0,4}:[ \t\n]{0,4}("[a-zA-Z0-9_.:-]{0,64}"|0|[1-9][0-9]{0,3})/'
)


@dataclass(frozen=True, slots=True)
class JsonForm:
    """How a format writes calls in JSON.

    name_key, arguments_key: the keys of a call's name and arguments.
    other_key: may stand for arguments_key.
    is_keyed: a call is an object of one key, the tool's name, with the arguments as its value.
    is_list: the calls stand in a list, also a single one.
    separator: the grammar of what stands between calls in no list; empty where there is one at most.
    heads: the only beginnings of a call, up to its name, for which NAME stands; empty for any.
    """

    name_key: str = "name"
    arguments_key: str = "arguments"
    other_key: str = ""
    is_keyed: bool = False
    is_list: bool = False
    separator: str = ""
    heads: tuple[str, ...] = ()

    def syntax(self, name: str) -> CallSyntax:
        """Return the format's syntax under a name."""
        return CallSyntax(name, self.make_reader, self.define_rule, self.write)

    def write(self, calls: abc.Sequence[tuple[str, dict[str, Any]]]) -> str:
        """Write calls as the text between the tags."""
        entries = [
            {name: arguments} if self.is_keyed else {self.name_key: name, self.arguments_key: arguments}
            for name, arguments in calls
        ]
        return dump(entries) if self.is_list else "\n".join(map(dump, entries))

    def make_reader(
        self, _parser: ToolParser, tools: abc.Sequence[dict[str, Any]], _has_end: bool
    ) -> CallReader:
        """Make a reader of calls in any of these forms, but for the keyed one."""
        return (KeyedJsonCalls if self.is_keyed else JsonCalls)(tool_names(tools))

    def define_rule(self, lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
        """Define the rule for the calls between two tags."""
        return self.define_calls(lark, tools, [json_arguments(lark, tool.schema) for tool in tools])

    def define_calls(
        self, lark: Lark, tools: abc.Sequence[CallableTool], arguments: abc.Sequence[str]
    ) -> str:
        """Define the rule for the calls. arguments: the rules of each tool's arguments."""
        forms = [self._call(tool.name, rule) for tool, rule in zip(tools, arguments, strict=True)]
        if not self.is_keyed:
            lark.rule("BESIDE", BESIDE)
        call = lark.one_of(forms)
        lark.rules({"LIST": r"/\[[ \t\n]{0,12}/", "LIST_END": r"/[ \t\n]{0,12}\]/"})
        several = [f"LIST {call} (COMMA {call})* LIST_END"] if self.is_list else []
        several += [f"{call} ({self.separator} {call})* SPACE"] if self.separator else []
        return lark.one_of(several) if several else call

    def _call(self, tool: str, arguments: str) -> str:
        """Write the body of the rule for one tool's call: name and arguments in either order."""
        quoted = literal(literal(tool))
        if self.is_keyed:
            return f"OPEN {quoted} COLON {arguments} CLOSE"
        name = f"{literal(literal(self.name_key))} COLON {quoted}"
        keys = [literal(literal(key)) for key in (self.arguments_key, self.other_key) if key]
        value = f"({' | '.join(keys)}) COLON {arguments}"
        if self.heads:
            heads = " | ".join(literal(head.replace("NAME", tool)) for head in self.heads)
            return f"({heads}) COMMA (BESIDE COMMA)? {value} (COMMA BESIDE)? CLOSE"
        before, between, after = "(BESIDE COMMA)? (BESIDE COMMA)?", "COMMA (BESIDE COMMA)?", "(COMMA BESIDE)?"
        return " | ".join(
            f"OPEN {before} {first} {between} {second} {after} {after} CLOSE"
            for first, second in ((name, value), (value, name))
        )


JSON_TOOLS = replace(JsonForm().syntax("json_tools"), is_plain_json=True)
