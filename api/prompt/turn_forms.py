"""The ways to show one turn, from what the client has sent to what every template takes.

Each form loses nothing of a turn but thoughts. Which forms a template shows, `fitted_turns.py` finds out.
"""

from collections import abc
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from ..protocols import TemplateMessage
from .conversation_turns import Turn
from .template_messages import call_as_text, model_turn, reminder, result_as_text, user_turn

BEFORE_ANSWER, BEFORE_WORDS = "[the conversation goes on]", "[no answer]"
"""Turns of the other side, between two of one side where a template wants them to alternate."""

GO_ON = "Go on."
"""Words of the user between the model's text and its call, for templates that show no text beside a call."""


@dataclass(frozen=True, slots=True)
class Form:
    """One way to show a turn. replaces_last: the turn is joined to the last one, which it stands in for."""

    messages: Turn
    replaces_last: bool = False


def forms_of(turn: Turn, last: Turn) -> Iterator[Form]:
    """Yield the forms of a turn, the best first. last: the turn before it as it is shown; empty for none."""
    yield Form(turn)
    first = turn[0]
    match first["role"]:
        case "user":
            yield from _user_forms(first["content"], last)
        case "system":
            words = reminder(first["content"])
            yield Form([words])
            yield from _user_forms(words["content"], last)
        case _ if "tool_calls" in first:
            yield from _call_forms(turn, last)
        case _:
            yield from _answer_forms(first, last)


def in_text(turn: Turn) -> list[Turn]:
    """Return a turn without calls and results as such: they become text of the model and of the user."""
    if "tool_calls" not in turn[0]:
        return [turn]
    results = "\n".join(result_as_text(message) for message in turn if message["role"] == "tool")
    return [[call_as_text(turn[0])], [user_turn(results)]]


def _user_forms(words: str, last: Turn) -> Iterator[Form]:
    end = last[-1] if last else None
    if end is not None and end["role"] == "user":
        yield Form([*last[:-1], user_turn(f"{end['content']}\n{words}")], replaces_last=True)
    if end is not None and end["role"] == "tool":
        yield Form([*last[:-1], end | {"content": f"{end['content']}\n\n{words}"}], replaces_last=True)
    yield Form([model_turn(BEFORE_WORDS), user_turn(words)])


def _answer_forms(answer: TemplateMessage, last: Turn) -> Iterator[Form]:
    bare = _without_thoughts(answer)
    if not bare["content"]:
        yield Form([])  # templates leave thoughts of earlier answers out as well
        return
    yield Form([bare])
    if last and _is_plain_answer(last[-1]):
        joined = last[-1] | {"content": f"{last[-1]['content']}\n\n{bare['content']}"}
        yield Form([*last[:-1], joined], replaces_last=True)
    yield Form([user_turn(BEFORE_ANSWER), bare])


def _call_forms(turn: Turn, last: Turn) -> Iterator[Form]:
    """Yield forms of an answer with calls, by what must be apart in it, and then as text."""
    ways = list(_call_ways(turn))
    for way in ways[1:]:
        yield Form(way)
    if last and _is_plain_answer(last[-1]):
        text = f"{last[-1]['content']}\n\n{turn[0]['content']}".strip()
        whole = [last[-1] | turn[0] | {"content": text}, *turn[1:]]
        for way in _call_ways(whole):
            yield Form([*last[:-1], *way], replaces_last=True)
    for way in ways:
        yield Form([user_turn(BEFORE_ANSWER), *way])
    yield Form(list(chain.from_iterable(in_text(turn))))


def _call_ways(turn: Turn) -> Iterator[Turn]:
    """Yield a turn as it is, and with its thoughts, its text and its calls in messages of their own."""
    answer, results = turn[0], turn[1:]
    for each in (turn, _one_by_one(answer, results)) if len(results) > 1 else (turn,):
        yield each
        head, rest = each[0], each[1:]
        if not head["content"]:
            if head.get("reasoning_content"):
                yield [_without_thoughts(head), *rest]
            continue
        bare = head | {"content": ""}
        if head.get("reasoning_content"):
            joined = f"{head['reasoning_content']}\n\n{head['content']}"
            yield [_without_thoughts(head) | {"content": joined}, *rest]
            yield [model_turn(head["content"]), bare, *rest]
            yield [_without_thoughts(head), *rest]
            bare = _without_thoughts(bare)
        yield [model_turn(head["content"]), bare, *rest]
        yield [model_turn(head["content"]), user_turn(GO_ON), bare, *rest]


def _one_by_one(answer: TemplateMessage, results: abc.Sequence[TemplateMessage]) -> Turn:
    """Return calls in messages of their own, each before its result, in the results' order."""
    calls = {call["id"]: call for call in answer["tool_calls"]}
    turn: Turn = []
    for result in results:
        head = model_turn("") if turn else answer
        turn += [head | {"tool_calls": [calls[result["tool_call_id"]]]}, result]
    return turn


def _without_thoughts(message: TemplateMessage) -> TemplateMessage:
    return {key: value for key, value in message.items() if key != "reasoning_content"}


def _is_plain_answer(message: TemplateMessage) -> bool:
    return bool(message["role"] == "assistant" and message["content"] and "tool_calls" not in message)
