"""Calls in formats that are not JSON, shown a parameter at a time."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..output.pieces import Piece
from ..protocols import ToolParser
from .reader import CallWriter, Reading, call_entries, dump
from .whole import WholeCalls

MAX_MARK = 300


@dataclass(frozen=True, slots=True)
class Members:
    """Where the calls of a format can be read.

    ends: matches the end of a call's name and of each parameter, in at most MAX_MARK characters.
    closing: makes what stands before it a call that mlx-lm's parser reads.
    """

    ends: re.Pattern[str]
    closing: str = ""


class MemberCalls(WholeCalls):
    """Calls in a format of which mlx-lm's parser reads any beginning that ends with a parameter."""

    def __init__(self, parser: ToolParser, tools: Sequence[dict[str, Any]], shape: Members) -> None:
        super().__init__(parser, tools)
        self._shape = shape
        self._writer = CallWriter(self._names)
        self._shown: list[dict[str, str]] = []  # each call's parameters, with their JSON
        self._tail = ""  # of the passage; the next mark may begin in it

    def add(self, text: str) -> list[Piece]:
        self._texts.append(text)
        self._tail += text
        while match := self._shape.ends.search(self._tail):
            self._tail = self._tail[match.end() :]
            passage = "".join(self._texts)
            self._show(passage[: len(passage) - len(self._tail)] + self._shape.closing)
        self._tail = self._tail[-MAX_MARK:]
        return self._writer.take()

    def end(self, complete: bool) -> Reading:
        # Some of these parsers read half a call without complaint.
        if complete and not self._shown:
            return super().end(complete)
        if complete and self._show("".join(self._texts)):
            self._end_call()
            return Reading("ok", [*self._writer.take(), *self._writer.take_later()])
        if self._writer.is_shown:
            self._writer.cut()
            return Reading("failed", self._writer.take())
        return Reading("failed", text="" if self._writer.has_shown else "".join(self._texts))

    def _show(self, passage: str) -> bool:
        """Show what is new in a passage; false when it holds no calls, or others than were shown."""
        try:
            calls = call_entries(self._parser(passage, self._tools))
        except Exception:
            # mlx-lm's parsers raise whatever the text makes them stumble over.
            return False
        last = len(self._shown) - 1
        if last >= len(calls) or (last >= 0 and not self._shown[last].keys() <= calls[last][1].keys()):
            return False
        for index, (name, arguments) in enumerate(calls[max(last, 0) :], max(last, 0)):
            if index > last:
                self._start_call(name)
            self._show_members(self._shown[index], arguments)
        return True

    def _start_call(self, name: str) -> None:
        if self._writer.is_open:
            self._end_call()
        self._writer.start(name)
        self._shown.append({})

    def _end_call(self) -> None:
        if self._shown[-1]:
            self._writer.write("}")
        self._writer.end()

    def _show_members(self, shown: dict[str, str], arguments: dict[str, Any]) -> None:
        for key, value in arguments.items():
            text = dump(value)
            if shown.get(key) != text:  # of two members of one name, the last counts
                self._writer.write(f"{', ' if shown else '{'}{dump(key)}: {text}")
                shown[key] = text
