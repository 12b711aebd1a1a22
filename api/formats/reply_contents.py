"""What a client was told in a reply: its text, its thoughts and its calls, joined from the output events."""

from collections import abc
from dataclasses import dataclass
from typing import Any

from .json_text import dump
from .output_events import (
    ArgumentsDelta,
    OutputEvent,
    TextDelta,
    ThinkingDelta,
    ToolCallEnd,
    ToolCallStart,
    read_object,
)


@dataclass(frozen=True, slots=True)
class KeptCall:
    """A call as the model made it."""

    call_id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReplyContents:
    """A reply as the client that got it may send it back."""

    text: str
    thoughts: str
    calls: tuple[KeptCall, ...]

    @property
    def words(self) -> str:
        """All that the model says: its thoughts, its text and the arguments of its calls."""
        return "\n".join([self.thoughts, self.text, *(dump(call.arguments) for call in self.calls)])


def reply_contents(events: abc.Sequence[OutputEvent]) -> ReplyContents | None:
    """Join a reply's output events; None where a call was cut off or its arguments are no JSON object."""
    parts: dict[type[OutputEvent], list[str]] = {TextDelta: [], ThinkingDelta: []}
    calls: list[KeptCall] = []
    fragments: list[str] = []
    num_ended = 0  # calls that have ended
    last: type[OutputEvent] | None = None
    for event in events:
        match event:
            case TextDelta(text) | ThinkingDelta(text):
                blocks = parts[type(event)]
                if last is type(event):
                    blocks[-1] += text
                else:
                    blocks.append(text)
            case ToolCallStart(name, call_id):
                fragments = []
                calls.append(KeptCall(call_id, name, {}))
            case ArgumentsDelta(fragment):
                fragments.append(fragment)
            case ToolCallEnd():
                try:
                    arguments = read_object("".join(fragments))
                except ValueError:
                    return None
                calls[-1] = KeptCall(calls[-1].call_id, calls[-1].name, arguments)
                num_ended += 1
            case _:
                continue
        last = type(event)
    text, thoughts = ("\n".join(block for block in parts[kind] if block.strip()) for kind in parts)
    return ReplyContents(text, thoughts, tuple(calls)) if num_ended == len(calls) else None
