"""The description of one format of tool calls, which each format's file makes: its reader and its grammar."""

from collections import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..grammars.callable_tool import CallableTool
from ..grammars.lark import Lark
from ..readers.call_reader import MakeReader

DefineRule = Callable[[Lark, abc.Sequence[CallableTool]], str]
"""Defines the rule for the text between a call's tags and returns the rule's name."""

WriteCalls = Callable[[abc.Sequence[tuple[str, dict[str, Any]]]], str]
"""Writes calls, each a name and arguments, as the text between the tags."""


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """One format of tool calls.

    module: the name of the mlx-lm module whose parser reads the format, else a name of our own.
    define_rule: None where calls are not constrained.
    write: None where calls are written by chat templates alone.
    has_own_tags: the grammar is of calls with their tags.
    is_plain_json: calls are JSON objects of a name and arguments; models forget the tags around them.
    bare_starts: beginnings of a call by which models begin it without a start tag; NAME stands for a tool's.
    """

    module: str
    make_reader: MakeReader
    define_rule: DefineRule | None = None
    write: WriteCalls | None = None
    bare_starts: tuple[str, ...] = ()
    has_own_tags: bool = False
    is_plain_json: bool = False
