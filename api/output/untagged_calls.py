"""Finds calls that a model writes as plain JSON, without the tags of its format.

Models that were trained little on tools (Qwen 2.5 Coder among them) write calls bare, in blocks of Markdown,
or in tags of their own. Such a call counts where it begins a line, names a tool of the request, has arguments
that the tool's schema requires and nothing that a call does not have, and where nothing follows it in the
answer but other calls: one that is explained is an example, and so is one in a block of Markdown that words
with a colon announce. The text from such a beginning on is held back until the answer ends or goes on.

Source of the forms: the older chat tests of llama.cpp, which reads them as well.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from ..formats.output_events import OutputEvent
from ..formats.readers.json_reader import JsonError, JsonReader, Kind
from ..formats.readers.parsed_calls import call_events

FENCE_MARK = "```"
FENCE, TAG = r"(?:`{3}[A-Za-z]*\s*)?", r"(?:<\w+>\s*)?"
HEAD = re.compile(
    rf"{FENCE}{TAG}(?:<function(?:=|\sname=\")(?P<function>[\w.-]+)\"?>\s*(?=\{{)"
    r"|(?=\{\s*\"name\"\s*:\s*\"(?P<name>[\w.-]+)\"))"
)
PART_OF_NAME = r"\{(?:\s*(?:\"(?:n(?:a(?:m(?:e(?:\"\s*(?::\s*(?:\"[\w.-]*)?)?)?)?)?)?)?)?)?"
PART_OF_HEAD = re.compile(
    rf"(?:`{{1,2}}|{FENCE}(?:<[\w=.\- \"]*|{TAG}(?:{PART_OF_NAME})?|<function[\w=.\- \"]*>\s*))"
)
CLOSERS = re.compile(r"\s*(?:</\w+>\s*)?(?:`{3}\s*)?")
PART_OF_CLOSER = re.compile(r"(?:</?\w*|`{1,2})?")
LINES = re.compile(r"[^\n]*\n|[^\n]+")

MAX_HEAD = 200
"""Characters that may stand before a call's JSON, or between two calls; more are text."""

ARGUMENTS = ("arguments", "parameters", "input")
KEYS = {"name", "id", "type", *ARGUMENTS}


class UntaggedCalls:
    """The text of one answer that is held back."""

    def __init__(self, tools: Mapping[str, frozenset[str]]) -> None:
        """tools: what each tool requires that may be called, by its name; without any, no text is held."""
        self._tools = tools
        self._held: list[
            str
        ] = []  # before the head: calls that have been read, and the start of the open one
        self._head = ""  # in which the next call may begin
        self._json: JsonReader | None = None  # of the call that is open
        self._json_text: list[str] = []  # what it has been given
        self._function = ""  # the name of the open call, where it stands before its arguments
        self._calls: list[Any] = []
        self._in_line = False  # the next text does not begin a line
        self._in_block = False  # the text is in a block of Markdown that begins with no call
        self._last = ""  # the last character of the text, space apart

    def add(self, text: str) -> str:
        """Take text and return the text that is not held back."""
        return "".join(map(self._add_line, LINES.findall(text))) if self._tools else text

    def end(self) -> tuple[list[OutputEvent], str]:
        """Return the events of the calls that end the answer, if any do, and the text that is held."""
        calls = self._calls if self._json is None else []
        text = self.take()
        try:
            return call_events(calls) if calls else [], text
        except (ValueError, TypeError):
            return [], text

    def take(self) -> str:
        """Return the text that is held, and hold it no longer. The next text begins a line."""
        text = self._release() + self._head
        self._head, self._last, self._in_line, self._in_block = "", "", False, False
        return text

    def copy(self) -> "UntaggedCalls":
        """Return a copy that holds nothing."""
        return UntaggedCalls(self._tools)

    def _add_line(self, text: str) -> str:
        """Take a part of a line; return the text that is not held back."""
        passed = []
        while text:
            if self._json is not None:
                released, text = self._read(self._json, text)
            elif self._in_line:
                released, newline, text = text.partition("\n")
                released, self._in_line = released + newline, not newline
            else:
                released, text = self._begin_line(text)
            passed.append(released)
            self._last = released.rstrip()[-1:] or self._last
        return "".join(passed)

    def _release(self) -> str:
        """Return the calls that are held, which are none."""
        num_fences = sum(head.count(FENCE_MARK) for head in self._held[::2])  # between them are the calls
        self._in_block ^= num_fences % 2 == 1
        text = "".join([*self._held, *self._json_text])
        self._held, self._calls, self._json, self._json_text = [], [], None, []
        return text

    def _begin_line(self, text: str) -> tuple[str, str]:
        """Look for a call where a line begins; return the text that is released, and what is to be read on.

        What is looked at is no longer than MAX_HEAD characters, and what one part of a line adds to it.
        """
        head, self._head = self._head + text, ""
        start, space = 0, ""
        closers = CLOSERS.match(head, 0, MAX_HEAD) if self._calls else None
        if closers is not None:
            start = closers.end()
        else:
            space, head = head[: len(head) - len(head.lstrip())], head.lstrip()
        is_text = self._in_block or (head.startswith(FENCE_MARK) and self._last == ":")
        found = None if is_text else HEAD.match(head, start, MAX_HEAD)
        if found and (found["name"] or found["function"]) in self._tools:
            self._function, self._json = found["function"] or "", JsonReader()
            self._held.append(head[: found.end()])
            return space, head[found.end() :]
        if len(head) < MAX_HEAD:
            may_close = closers is not None and PART_OF_CLOSER.fullmatch(head, start)
            may_begin = not found and not is_text and PART_OF_HEAD.fullmatch(head, start)
            if may_close or may_begin or (is_text and FENCE_MARK.startswith(head)):
                self._head = head
                return space, ""
        released, self._in_line = space + self._release(), True
        self._in_block ^= head.startswith(FENCE_MARK)
        return released, head

    def _read(self, reader: JsonReader, text: str) -> tuple[str, str]:
        """Read the open call's JSON; return all that is held where it is none, and what follows it."""
        self._json_text.append(text)
        try:
            for token in reader.read(text):
                is_key = token.kind is Kind.KEY and token.depth == 1 and not self._function
                if is_key and json.loads(token.text) not in KEYS:
                    raise JsonError("a call has no such key")
            if not reader.is_done:
                return "", ""
            written = "".join(self._json_text).removesuffix(reader.unread)
            call = self._call(json.loads(written, strict=False))
        except (JsonError, ValueError, RecursionError):
            released = self._release()
            self._in_line = not released.endswith("\n")
            return released, ""
        self._calls.append(call)
        self._held.append(written)
        self._json, self._json_text = None, []
        return "", reader.unread

    def _call(self, value: Any) -> dict[str, Any]:
        """Return the call that a value is. Raises ValueError where it is none."""
        if self._function:
            return {"name": self._function, "arguments": value}
        given = [value[key] for key in ARGUMENTS if key in value]
        arguments = json.loads(given[0]) if given and isinstance(given[0], str) else (given or [None])[0]
        if (
            len(given) != 1
            or not isinstance(arguments, dict)
            or self._tools[value["name"]] - arguments.keys()
        ):
            raise ValueError("no call of this tool")
        return {"name": value["name"], "arguments": arguments}
