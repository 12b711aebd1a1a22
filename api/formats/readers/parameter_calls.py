"""Reads calls in formats that write each parameter between tags, and sends them a parameter at a time.

mlx-lm's parsers find the calls. But the parsers strip texts and lose digits: values that they change are
taken from the text itself.
"""

import json
import re
from collections import abc
from dataclasses import dataclass
from typing import Any

from ...protocols import ToolParser
from ..json_text import dump
from ..output_events import OutputEvent
from .call_reader import BodyResult
from .call_writer import CallWriter
from .parsed_calls import call_entries, clean
from .whole_calls import WholeCalls

MAX_TAG = 300  # characters

PYTHON_TYPES = {"boolean": (bool,), "integer": (int,), "number": (int, float), "string": (str,)}
PYTHON_TYPES |= {"object": (dict,), "array": (list,), "null": (type(None),)}


@dataclass(frozen=True, slots=True)
class ParameterPatterns:
    """Regular expressions that find the parameters of one format's calls.

    ends: matches the end of a call's name and of each parameter, in at most MAX_TAG characters.
    parts: matches the head of a call, or a parameter with the groups `key`, `value` and `close`; `close` is
        empty where the parameter is cut off. See `parameter_parts`.
    closing: the text that mlx-lm's parser needs after a parameter to read a call that is cut off there.
    """

    ends: re.Pattern[str]
    parts: re.Pattern[str]
    closing: str = ""


class ParameterCalls(WholeCalls):
    """Reads calls in formats of which mlx-lm's parser can read any beginning that ends with a parameter."""

    def __init__(
        self,
        patterns: ParameterPatterns,
        parser: ToolParser,
        tools: abc.Sequence[dict[str, Any]],
        has_end: bool,
    ) -> None:
        super().__init__(parser, tools, has_end)
        self._patterns = patterns
        self._schemas = {tool["function"]["name"]: _properties(tool["function"]) for tool in tools}
        self._writer = CallWriter(self._names)
        self._sent: list[dict[str, str]] = []  # for each call, the JSON of the parameters sent, by name
        self._tail = ""  # end of the body, in which the next tag may begin

    def add(self, text: str) -> list[OutputEvent]:
        """Take text and return the events of the parameters that have ended in it."""
        self._texts.append(text)
        self._tail += text
        while match := self._patterns.ends.search(self._tail):
            self._tail = self._tail[match.end() :]
            body = "".join(self._texts)
            self._send(body[: len(body) - len(self._tail)] + self._patterns.closing)
        self._tail = self._tail[-MAX_TAG:]
        return self._writer.take()

    def end(self, complete: bool) -> BodyResult:
        """End the last call; a call that was cut off within a parameter is not complete."""
        # Some of mlx-lm's parsers accept half a call.
        if complete and not self._sent:
            return super().end(complete)
        if complete and not self._is_unclosed() and self._send("".join(self._texts)):
            self._end_call()
            return BodyResult("ok", [*self._writer.take(), *self._writer.take_deferred()])
        if self._writer.is_sent:
            self._writer.cut()
            return BodyResult("failed", self._writer.take())
        return BodyResult("failed", text="" if self._writer.has_sent else "".join(self._texts))

    def _send(self, body: str) -> bool:
        """Write the new parameters of a body.

        Returns False when the parser fails, or when the body lacks a call or parameter that was sent.
        """
        try:
            calls = self._read(body)
        except Exception:
            # mlx-lm's parsers raise exceptions of any type for text that is no call.
            return False
        last = len(self._sent) - 1
        if last >= len(calls) or (last >= 0 and not self._sent[last].keys() <= calls[last][1].keys()):
            return False
        for index, (name, arguments) in enumerate(calls[max(last, 0) :], max(last, 0)):
            if index > last:
                self._start_call(name)
            self._send_parameters(self._sent[index], arguments)
        return True

    def _read(self, body: str) -> list[tuple[str, dict[str, Any]]]:
        """Read the calls of a body. Raises any exception of the parser."""
        calls = call_entries(self._parser(body, self._tools))
        texts = self._value_texts(body)
        if len(texts) != len(calls):
            return calls
        return [
            (name, self._exact(name, parsed, values))
            for (name, parsed), values in zip(calls, texts, strict=True)
        ]

    def _value_texts(self, body: str) -> list[dict[str, str]]:
        """List each call's values as they stand in the body, by key."""
        calls: list[dict[str, str]] = []
        for part in self._patterns.parts.finditer(body):
            if part["key"] is None:
                calls.append({})
            elif calls and part["close"]:
                calls[-1][part["key"].strip()] = part["value"]
        return calls

    def _is_unclosed(self) -> bool:
        """Whether the body has ended within a parameter."""
        parts = self._patterns.parts.finditer("".join(self._texts))
        return any(part["key"] is not None and not part["close"] for part in parts)

    def _exact(self, name: str, parsed: dict[str, Any], texts: dict[str, str]) -> dict[str, Any]:
        """Replace the values that the parser has changed."""
        schemas = self._schemas.get(name, {})
        values = {
            key: _choose_value(schemas.get(key), texts[key], parsed[key]) for key in parsed if key in texts
        }
        return {**parsed, **clean(values)}

    def _start_call(self, name: str) -> None:
        if self._writer.is_open:
            self._end_call()
        self._writer.start(name)
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


def parameter_parts(head: str, key: str, close: str, space: str = "") -> re.Pattern[str]:
    """Write the pattern of a call's parts from patterns of the head and of the tags around a value.

    key: has a group `key`. space: stands before `close` and is no part of the value.
    """
    return re.compile(rf"{head}|{key}(?P<value>.*?){space}(?P<close>{close}|\Z)", re.DOTALL)


def _properties(function: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas of a tool's parameters by name, empty where the tool names none."""
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    return properties if isinstance(properties, dict) else {}


def _choose_value(schema: Any, text: str, parsed: Any) -> Any:
    """Return a value as its text, as its text read as JSON, or as the parser has read it, by its schema."""
    kinds = schema.get("type") if isinstance(schema, dict) else None
    kinds = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else None
    if parsed in (text, text.strip()) and (kinds is None or "string" in kinds):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return parsed
    return value if kinds is None or any(_has_type(value, kind) for kind in kinds) else parsed


def _has_type(value: Any, kind: Any) -> bool:
    """Whether a value has a type of JSON Schema, in which true and false are not integers."""
    types = PYTHON_TYPES.get(kind, ()) if isinstance(kind, str) else ()
    return isinstance(value, types) and (kind == "boolean" or not isinstance(value, bool))
