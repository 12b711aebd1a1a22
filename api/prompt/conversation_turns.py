"""Turns of a conversation, as all chat templates are given them, and the shapes by which they are probed.

A turn is a list of messages: one of the system, the user or the model, or an answer with calls and all of
their results. Here results that fit no open call become the user's words, and a call whose result the client
never sent gets a note instead. Nothing depends on later messages but such notes, at the end of a turn.
"""

from collections import abc
from dataclasses import dataclass

from ..protocols import TemplateMessage
from .template_messages import user_turn

Turn = list[TemplateMessage]

Waiting = dict[str, list[TemplateMessage]]
"""The last turn's calls that have no result yet, by the ids that the client has given them."""

NO_RESULT = "[this call has no result]"
EMPTY = "[empty message]"

MANY = 2
"""Calls of a turn from which on more make no difference to a template."""


@dataclass(frozen=True, slots=True)
class Shape:
    """All of a message on which it may depend whether a template shows it."""

    role: str
    has_text: bool = True
    has_thoughts: bool = False
    num_calls: int = 0


Shapes = tuple[Shape, ...]


def shapes_of(turn: Turn) -> Shapes:
    """Return the shapes of a turn's messages, of calls and results MANY at most."""
    shapes, num_results = [], 0
    for message in turn:
        if message["role"] == "tool":
            num_results -= 1
            if num_results >= 0:
                shapes.append(Shape("tool"))
            continue
        num_results = min(len(message.get("tool_calls", ())), MANY)
        has_thoughts = bool(message.get("reasoning_content"))
        shapes.append(Shape(message["role"], bool(message["content"]), has_thoughts, num_results))
    return tuple(shapes)


def split_turns(messages: abc.Iterable[TemplateMessage]) -> list[Turn]:
    """Divide a conversation into turns in which each call has one result, and each result its call."""
    turns: list[Turn] = []
    waiting: Waiting = {}
    for message in messages:
        if message["role"] == "tool" and message["tool_call_id"] in waiting:
            calls = waiting[message["tool_call_id"]]
            turns[-1].append(_result(calls.pop(0), message["content"]))
            if not calls:
                del waiting[message["tool_call_id"]]
            continue
        turn = _as_turn(message)
        if turn:
            _close(turns, waiting)
            turns.append(turn)
            waiting = {}
            for call in turn[0].get("tool_calls", ()):
                waiting.setdefault(call.get("client_id", call["id"]), []).append(call)
    _close(turns, waiting)
    return turns


def _close(turns: list[Turn], waiting: Waiting) -> None:
    """Give those of the last turn's calls that wait for a result a note."""
    for calls in waiting.values():
        turns[-1] += [_result(call, NO_RESULT) for call in calls]


def _result(call: TemplateMessage, content: str) -> TemplateMessage:
    name = call["function"]["name"]
    return {"role": "tool", "tool_call_id": call["id"], "name": name, "content": content}


def _as_turn(message: TemplateMessage) -> Turn:
    """Return a message as the beginning of a turn, empty for an answer without anything.

    A user without words gets a note, and so does a result whose call the client has not sent.
    """
    if message["role"] == "tool":
        name = f" of {message['name']}" if message["name"] else ""
        return [user_turn(f"Result{name}:\n{message['content']}")]
    if message["role"] == "assistant":
        is_empty = not any(message.get(key) for key in ("content", "tool_calls", "reasoning_content"))
        return [] if is_empty else [_with_own_ids(message)]
    return [message if message["content"] else message | {"content": EMPTY}]


def _with_own_ids(message: TemplateMessage) -> TemplateMessage:
    """Return an answer in which no two calls have the same id."""
    calls: list[TemplateMessage] = list(message.get("tool_calls", ()))
    if len({call["id"] for call in calls}) == len(calls):
        return message
    renamed = [call | {"id": f"{call['id']}-{i}", "client_id": call["id"]} for i, call in enumerate(calls)]
    return message | {"tool_calls": renamed}
