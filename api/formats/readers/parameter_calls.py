"""Reads calls in formats that write each parameter between tags, and sends them a parameter at a time."""

import json
import re
from collections import abc
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...protocols import ToolParser
from ..grammars.schema_kinds import KINDS
from ..json_text import dump
from ..output_events import OutputEvent
from .call_reader import BodyResult
from .call_writer import CallWriter
from .parameter_values import TEXT, parameter_kinds, read_value
from .parsed_calls import clean
from .whole_calls import WholeCalls

MAX_TAG = 300  # characters
CDATA, CDATA_END = r"\s*<!\[CDATA\[", "]]>"
CDATA_BEGIN = re.compile(CDATA)
CDATA_TEXT = re.compile(rf"{CDATA}(.*)\]\]>\s*", re.DOTALL)


@dataclass(frozen=True)
class ParameterPatterns:
    """Regular expressions of one format's calls.

    head: of a call's head, with a group `name`, and perhaps one `is_whole`, found where the head is all
        of the call. head_end: of what ends the head, where that is not all of it.
    key: of the tags before a value, with a group `key`, and perhaps one `is_text`, which is "true" or "false"
        whatever the schema says. close: of the tag behind a value.
    space: stands before `close` and is no part of the value.
    end: a text that ends a call, no expression; behind it, a body is whole even without its end tag.
    cdata: a text may stand as XML's `<![CDATA[` … `]]>`, in which it may hold the format's own tags.
    """

    head: str
    key: str
    close: str
    space: str = ""
    end: str = ""
    head_end: str = ""
    cdata: bool = False

    @cached_property
    def ends(self) -> re.Pattern[str]:
        """Match the end of a call's name, or of a parameter as `close`, in at most MAX_TAG characters."""
        head = self.head_end or re.sub(r"\?P<\w+>", "?:", self.head)
        return re.compile(f"{head}|(?P<close>{self.close})")

    @cached_property
    def parts(self) -> re.Pattern[str]:
        """Match the head of a call, or a parameter, in which `close` is empty if the parameter is cut off."""
        value = rf"{CDATA}.*?(?:\]\]>\s*|\Z)|(?!{CDATA}).*?" if self.cdata else ".*?"
        value = rf"(?P<value>{value}){self.space}(?P<close>{self.close}|\Z)"
        return re.compile(f"{self.head}|{self.key}{value}", re.DOTALL)

    def ends_with_a_call(self, body: str) -> bool:
        """Whether a body ends where a call does, as far as that can be seen."""
        if self.end and body.endswith(self.end):
            return True
        last = [*self.parts.finditer(body)][-1:]
        return any(part.end() == len(body) and part.groupdict().get("is_whole") for part in last)

    def begins_cdata(self, part: re.Match[str]) -> bool:
        """Whether a parameter's value stands as CDATA."""
        return self.cdata and CDATA_BEGIN.match(part["value"]) is not None

    def text(self, part: re.Match[str]) -> str:
        """Return a parameter's value."""
        match = CDATA_TEXT.fullmatch(part["value"]) if self.cdata else None
        return part["value"] if match is None else match[1]


class ParameterCalls(WholeCalls):
    """Reads calls a parameter at a time. A body without any call is left to mlx-lm's parser, at its end."""

    def __init__(
        self,
        patterns: ParameterPatterns,
        parser: ToolParser,
        tools: abc.Sequence[dict[str, Any]],
        has_end: bool,
    ) -> None:
        super().__init__(parser, tools, has_end)
        self._patterns = patterns
        self._kinds = {tool["function"]["name"]: parameter_kinds(tool["function"]) for tool in tools}
        self._writer = CallWriter(self._names)
        self._sent: list[dict[str, str]] = []  # for each call, the JSON of the parameters sent, by name
        self._called = ""  # the tool of the last call
        self._head_end = 0  # index in the body at which the last call's head ends
        self._num_chars = 0  # of the body
        self._tail = ""  # end of the body, in which the next tag may begin
        self._unread: list[str] = []  # the body from the last character that was read on
        self._num_read = 0  # characters of that: 0 or 1. It tells later heads from the body's beginning.
        self._in_value = False  # a parameter has begun that had not ended when the body was last read
        self._in_cdata = False  # its value stands as CDATA

    def add(self, text: str) -> list[OutputEvent]:
        """Take text and return the events of the parameters that have ended in it."""
        self._texts.append(text)
        self._unread.append(text)
        self._num_chars += len(text)
        self._tail += text
        while match := self._patterns.ends.search(self._tail):
            before = self._tail[max(match.start() - MAX_TAG, 0) : match.start()]
            self._tail = self._tail[match.end() :]
            in_cdata = self._in_cdata and not before.rstrip().endswith(CDATA_END)
            if not in_cdata and (match["close"] or not self._in_value):
                self._send_new()
        self._tail = self._tail[-MAX_TAG:]
        return self._writer.take()

    def end(self, complete: bool) -> BodyResult:
        """End the last call; a call that was cut off within a parameter is not complete."""
        body = "".join(self._texts)
        complete = complete or (bool(self._sent) and self._patterns.ends_with_a_call(body.rstrip()))
        if complete and not self._sent and not self._read(body):
            return super().end(complete)
        if complete and not self._is_unclosed(body) and self._send(body):
            self._end_call()
            return BodyResult("ok", [*self._writer.take(), *self._writer.take_deferred()])
        if self._writer.is_sent:
            self._writer.cut()
            return BodyResult("failed", self._writer.take())
        return BodyResult("failed", text="" if self._writer.has_sent else body)

    def _send_new(self) -> None:
        """Write what has ended before the tail, and drop what is read, so that no part is read twice."""
        unread = "".join(self._unread)
        place, end = self._num_read, len(unread) - len(self._tail)
        self._in_value = self._in_cdata = False
        for part in self._patterns.parts.finditer(unread[:end], place):
            if part["key"] is not None and not part["close"]:
                self._in_value, place = True, part.start()
                self._in_cdata = self._patterns.begins_cdata(part)
                break
            self._send_part(part, self._num_chars - len(unread))
            place = part.end()
        else:
            place = max(place, end - MAX_TAG)
        self._num_read = min(place, 1)
        self._unread = [unread[place - self._num_read :]]

    def _send_part(self, part: re.Match[str], offset: int) -> None:
        """Write the head of a call, or a parameter. offset: of the part's text in the body."""
        if part["key"] is None:
            if self._sent and not self._sent[-1]:
                self._send_parameters(self._sent[-1], json_parameters(self._since_head(part, offset)))
            self._start_call(part["name"])
            self._head_end = offset + part.end()
        elif self._sent:
            self._send_parameters(self._sent[-1], dict([self._read_parameter(self._called, part)]))

    def _since_head(self, part: re.Match[str], offset: int) -> str:
        """Return the text between the last head and a part."""
        if self._head_end >= offset:
            return part.string[self._head_end - offset : part.start()]
        return "".join(self._texts)[self._head_end : offset + part.start()]

    def _send(self, body: str) -> bool:
        """Write the new parameters of a body. Returns False when the body lacks a call or parameter sent."""
        calls = self._read(body)
        last = len(self._sent) - 1
        if last >= len(calls) or (last >= 0 and not self._sent[last].keys() <= calls[last][1].keys()):
            return False
        for index, (name, arguments) in enumerate(calls[max(last, 0) :], max(last, 0)):
            if index > last:
                self._start_call(name)
            self._send_parameters(self._sent[index], arguments)
        return True

    def _read(self, body: str) -> list[tuple[str, dict[str, Any]]]:
        """Read the names of a body's calls, and their parameters as far as they are closed."""
        calls: list[tuple[str, dict[str, Any]]] = []
        head_end = 0
        for part in self._patterns.parts.finditer(body):
            if part["key"] is None:
                if calls and not calls[-1][1]:
                    calls[-1][1].update(json_parameters(body[head_end : part.start()]))
                calls.append((part["name"], {}))
                head_end = part.end()
            elif calls and part["close"]:
                name, arguments = calls[-1]
                arguments.update([self._read_parameter(name, part)])
        if calls and not calls[-1][1]:
            calls[-1][1].update(json_parameters(body[head_end:]))
        return calls

    def _read_parameter(self, name: str, part: re.Match[str]) -> tuple[str, Any]:
        """Read the key and the value of a parameter. name: of the called tool."""
        key = part["key"].strip()
        kinds = self._kinds.get(name, {}).get(key, KINDS)
        if (is_text := part.groupdict().get("is_text")) is not None:
            kinds = TEXT if is_text == "true" else KINDS - TEXT
        return key, read_value(self._patterns.text(part), kinds)

    def _is_unclosed(self, body: str) -> bool:
        """Whether a body has ended within a parameter."""
        return any(
            part["key"] is not None and not part["close"] for part in self._patterns.parts.finditer(body)
        )

    def _start_call(self, name: str) -> None:
        if self._writer.is_open:
            self._end_call()
        self._writer.start(name)
        self._called = name
        self._sent.append({})

    def _end_call(self) -> None:
        if self._sent[-1]:
            self._writer.write("}")
        self._writer.end()

    def _send_parameters(self, sent: dict[str, str], arguments: dict[str, Any]) -> None:
        for key, value in arguments.items():
            text = dump(value)
            if sent.get(key) != text:  # of two parameters of one name, the last counts
                self._writer.write(f"{', ' if sent else '{'}{dump(key)}: {text}")
                sent[key] = text


def json_parameters(text: str) -> dict[str, Any]:
    """Return the JSON object that stands in the place of a call's parameters; an empty one for other text."""
    start = text.find("{")
    if start < 0 or text[:start].strip():
        return {}
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
        return dict(clean(value))
    except (ValueError, TypeError, RecursionError):
        return {}
