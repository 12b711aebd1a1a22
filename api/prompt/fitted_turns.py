"""Fits a conversation to a template: each turn is shown in the first of its forms that the template shows.

Whether a template shows a form, a probe tells: a short conversation of the same shape with made-up words, all
of which must be in the rendered text, in order, also when the conversation goes on. So nothing is known of
any template before, and what it refuses, leaves out or moves is found for all kinds of turns in the same way.
A form depends on the turns before alone: a longer conversation begins with the shorter one.
"""

from collections import abc
from collections.abc import Callable, Iterator
from itertools import chain

from ..protocols import TemplateMessage
from .conversation_turns import Shape, Shapes, Turn, shapes_of
from .template_messages import user_turn
from .turn_forms import Form, forms_of, in_text

TryRender = Callable[[abc.Sequence[TemplateMessage], bool], str | None]
"""Renders a conversation, with a tool or without any; None where the template refuses it."""

PROBE_NAME, PROBE_KEY = "probe_tool", "probe_key"

USER, ANSWER, TOOL = Shape("user"), Shape("assistant"), Shape("tool")
CALL = Shape("assistant", has_text=False, num_calls=1)

THEN_ANSWERED: list[Shapes] = [(), (ANSWER, USER)]
THEN_CALLED: Shapes = (CALL, TOOL)
CONTINUATIONS: dict[str, list[Shapes]] = {
    "user": THEN_ANSWERED,
    "tool": THEN_ANSWERED,
    "system": [*THEN_ANSWERED, (USER,)],
    "assistant": [(USER,), (USER, ANSWER, USER)],
}
"""How a conversation may go on after a message, by the message's role; THEN_CALLED where calls are shown."""


class FittedTurns:
    """The turns of conversations in the forms that one template shows. It keeps the probes' outcomes."""

    def __init__(self, render: TryRender, shows_thoughts: bool, native_calls: bool = True) -> None:
        """shows_thoughts: of an answer with a call, before the user's next words."""
        self._render = render
        self._shows_thoughts = shows_thoughts
        self._native_calls = native_calls
        self._known: dict[tuple[Shapes, Shapes, bool], bool] = {}

    def fit(self, turns: abc.Sequence[Turn], with_tools: bool) -> list[TemplateMessage]:
        """Return a conversation's messages. with_tools: the template is given tools beside them."""
        given = turns if self._native_calls else list(chain.from_iterable(map(in_text, turns)))
        shown: list[Turn] = []
        for turn in given:
            form = self._choose(turn, shown, with_tools)
            if form.replaces_last:
                del shown[-1]
            if form.messages:
                shown.append(form.messages)
        return list(chain.from_iterable(shown))

    def shows(self, turn: Turn, before: abc.Sequence[Turn], with_tools: bool = True) -> bool:
        """Return whether the template shows a turn as it is after some others."""
        return self._shows(context_of(before), shapes_of(turn), with_tools)

    def _choose(self, turn: Turn, shown: list[Turn], with_tools: bool) -> Form:
        last = shown[-1] if shown else []
        for form in forms_of(turn, last):
            before = shown[:-1] if form.replaces_last else shown
            if not form.messages or self._shows(context_of(before), shapes_of(form.messages), with_tools):
                return form
        return Form(turn)  # the template will tell what it does not like

    def _shows(self, before: Shapes, shapes: Shapes, with_tools: bool) -> bool:
        key = (before, shapes, with_tools)
        if key not in self._known:
            role = shapes[-1].role
            continuations = list(CONTINUATIONS[role])
            if self._native_calls and role != "assistant":
                continuations.append(THEN_CALLED)
            self._known[key] = all(
                self._shows_then(before, shapes, after, with_tools) for after in continuations
            )
        return self._known[key]

    def _shows_then(self, before: Shapes, shapes: Shapes, after: Shapes, with_tools: bool) -> bool:
        messages = list(probe_messages((*before, *shapes, *after)))
        text = self._render(messages, with_tools)
        if text is None:
            return False
        wanted = []
        for place, message in enumerate(messages):
            is_new = len(before) <= place < len(before) + len(shapes) and not after
            thoughts = is_new and self._shows_thoughts and "tool_calls" in message
            wanted += [*words_of(message, thoughts)]
        return in_order(text, wanted)


def context_of(turns: abc.Sequence[Turn]) -> Shapes:
    """Return the shapes of the last turns, before which the user speaks if they are not all turns."""
    shapes: Shapes = tuple(chain.from_iterable(map(shapes_of, turns[-2:])))
    return (USER, *shapes) if len(turns) > 2 and shapes[0].role != "user" else shapes


def probe_messages(shapes: Shapes) -> Iterator[TemplateMessage]:
    """Yield messages of made-up words in some shapes."""
    ids: list[str] = []
    for place, shape in enumerate(shapes):
        word = f"probe-{chr(97 + place % 26)}{place}"
        if shape.role == "tool":
            call = ids.pop(0) if ids else "toolu_0"
            yield {"role": "tool", "tool_call_id": call, "name": PROBE_NAME, "content": f"{word}-result"}
            continue
        message = user_turn(f"{word}-text" if shape.has_text else "") | {"role": shape.role}
        if shape.has_thoughts:
            message["reasoning_content"] = f"{word}-thought"
        if shape.num_calls:
            message["tool_calls"] = [probe_call(f"{word}-{i}", place, i) for i in range(shape.num_calls)]
            ids = [call["id"] for call in message["tool_calls"]]
        yield message


def probe_call(value: str, place: int = 0, index: int = 0) -> TemplateMessage:
    """Return a call with an id as the server makes them."""
    function = {"name": PROBE_NAME, "arguments": {PROBE_KEY: value}}
    return {"type": "function", "id": f"toolu_{place:022x}{index:02x}", "function": function}


def words_of(message: TemplateMessage, thoughts: bool = False) -> Iterator[str]:
    """Yield the words of a probe's message that must be shown, in order."""
    if thoughts and "reasoning_content" in message:
        yield message["reasoning_content"]
    if message["content"]:
        yield message["content"]
    for call in message.get("tool_calls", ()):
        yield call["function"]["arguments"][PROBE_KEY]


def in_order(text: str, wanted: abc.Sequence[str]) -> bool:
    """Return whether a text has all words in order, each at its first place."""
    places = [text.find(word) for word in wanted]
    return -1 not in places and places == sorted(places)
