"""The events of an answer, in the order in which a client sees them."""

import json
import secrets
from collections import abc
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..lenient import unparsed_input


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text. Deltas that follow one another belong to one block."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """More thoughts. Deltas that follow one another belong to one block."""

    text: str


def _new_id() -> str:
    return f"toolu_{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A tool call begins; its arguments follow, then its end."""

    name: str
    id: str = field(default_factory=_new_id)


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """A fragment of the JSON of a call's arguments."""

    json: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """The call has ended. If its fragments join to no JSON object, it was cut off or broken."""


@dataclass(frozen=True, slots=True)
class ServerToolStart:
    """A call begins of a tool that the server runs; its arguments follow, then its end."""

    name: str
    id: str


@dataclass(frozen=True, slots=True)
class ServerToolResult:
    """What a call has given that the server has run. kind: of the block. content: in Anthropic's form."""

    call_id: str
    kind: str
    content: Any


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """Log-probabilities of a token of the text and of the likeliest tokens in its place; only on request."""

    token: int
    logprob: float
    top: list[tuple[int, float]]


OutputEvent = (
    TextDelta
    | ThinkingDelta
    | ToolCallStart
    | ArgumentsDelta
    | ToolCallEnd
    | ServerToolStart
    | ServerToolResult
    | ScoredToken
)


def join_deltas(events: abc.Sequence[OutputEvent]) -> list[OutputEvent]:
    """Join the deltas of one kind that follow one another."""
    joined: list[OutputEvent] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            joined[-1] = TextDelta(last.text + event.text)
        elif isinstance(event, ThinkingDelta) and isinstance(last, ThinkingDelta):
            joined[-1] = ThinkingDelta(last.text + event.text)
        elif isinstance(event, ArgumentsDelta) and isinstance(last, ArgumentsDelta):
            joined[-1] = ArgumentsDelta(last.json + event.json)
        else:
            joined.append(event)
    return joined


def read_object(text: str) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError for other text, and for numbers that JSON cannot hold."""
    try:
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, allow_nan=False)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def call_input(fragments: list[str]) -> dict[str, Any]:
    """Join the fragments of a call's arguments and read them; see `unparsed_input` for other texts."""
    text = "".join(fragments)
    try:
        return read_object(text)
    except ValueError:
        return unparsed_input(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
