"""Finds calls that a model writes as plain JSON, without the tags of its format.

Models that were trained little on tools (Qwen 2.5 Coder among them) write calls bare, in blocks of Markdown,
or in tags of their own. Such a call counts where it begins a line, names a tool of the request, and nothing
follows it in the answer but other calls: one that is explained is an example. So the text from such a
beginning on is held back until the answer ends or goes on.

Source of the forms: the older chat tests of llama.cpp, which reads them as well.
"""

import json
import re
from collections.abc import Collection
from typing import Any

from ..formats.output_events import OutputEvent
from ..formats.readers.json_reader import JsonError, JsonReader
from ..formats.readers.parsed_calls import call_events

FENCE, TAG = r"(?:`{3}[A-Za-z]*\s*)?", r"(?:<\w+>\s*)?"
HEAD = re.compile(
    rf"\s*{FENCE}{TAG}(?:<function(?:=|\sname=\")(?P<function>[\w.-]+)\"?>\s*(?=\{{)"
    r"|(?=\{\s*\"name\"\s*:\s*\"(?P<name>[\w.-]+)\"))"
)
PART_OF_NAME = r"\{(?:\s*(?:\"(?:n(?:a(?:m(?:e(?:\"\s*(?::\s*(?:\"[\w.-]*)?)?)?)?)?)?)?)?)?"
PART_OF_HEAD = re.compile(
    rf"\s*(?:`{{1,2}}|{FENCE}(?:<[\w=.\- \"]*|{TAG}(?:{PART_OF_NAME})?|<function[\w=.\- \"]*>\s*))"
)
CLOSERS = re.compile(r"\s*(?:</\w+>\s*)?(?:`{3}\s*)?")
PART_OF_CLOSER = re.compile(r"(?:</?\w*|`{1,2})?")


class UntaggedCalls:
    """The text of one answer that is held back."""

    def __init__(self, names: Collection[str]) -> None:
        """names: of the tools that may be called; without any, no text is held."""
        self._names = names
        self._held: list[str] = []
        self._head = ""  # the end of the held text, in which the next call may begin
        self._json: JsonReader | None = None  # of the call that is open
        self._json_start = 0  # where its text begins in the held text
        self._function = ""  # the name of the open call, where it stands before its arguments
        self._calls: list[Any] = []
        self._in_line = False  # the next text does not begin a line

    def add(self, text: str) -> str:
        """Take text and return the text that is not held back."""
        if not self._names:
            return text
        self._held.append(text)
        if self._json is not None:
            return self._read(self._json, text)
        self._head += text
        return self._look_for_call()

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
        self._json, self._in_line = None, False
        return self._release()

    def copy(self) -> "UntaggedCalls":
        """Return a copy that holds nothing."""
        return UntaggedCalls(self._names)

    def _release(self) -> str:
        text = "".join(self._held)
        self._held, self._head, self._calls = [], "", []
        return text

    def _look_for_call(self) -> str:
        """Begin a call where one begins at a line; return the text before it."""
        held = "".join(self._held)
        passed = 0  # characters of it that are no part of a call
        while self._head:
            if self._in_line:
                line, newline, self._head = self._head.partition("\n")
                passed += len(line + newline)
                self._in_line = not newline
                continue
            closers = CLOSERS.match(self._head) if self._calls else None
            rest = self._head[closers.end() :] if closers else self._head
            found = HEAD.match(rest)
            if found and (found["name"] or found["function"]) in self._names:
                text = rest[found.end() :]
                self._function, self._json = found["function"] or "", JsonReader()
                self._json_start = len(held) - len(text) - passed
                self._held = [held[passed:]]
                return held[:passed] + self._read(self._json, text)
            may_close = closers is not None and PART_OF_CLOSER.fullmatch(rest)
            if may_close or (not found and PART_OF_HEAD.fullmatch(rest)):
                break
            if self._calls:  # something follows the calls
                self._calls, passed = [], len(held) - len(self._head)
            self._in_line = True
        self._held = [held[passed:]]
        return held[:passed]

    def _read(self, reader: JsonReader, text: str) -> str:
        """Read the open call's JSON; return all that is held where it is none."""
        try:
            for _ in reader.read(text):
                pass
            if not reader.is_done:
                return ""
            written = "".join(self._held)[self._json_start :].removesuffix(reader.unread)
            value = json.loads(written, strict=False)
        except (JsonError, ValueError, RecursionError):
            self._json, self._in_line = None, True
            return self._release()
        self._calls.append({"name": self._function, "arguments": value} if self._function else value)
        self._head, self._json = reader.unread, None
        return self._look_for_call()
