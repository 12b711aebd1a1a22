"""Shows the thoughts of all earlier answers, for clients that ask for it, in templates that would drop them.

Most templates show the thoughts since the user's last words alone: with each new question, the whole last
tool loop would stand in the prompt in another form, and be computed again. Some have a variable that keeps
thoughts. In others, a mark stands for an answer's thoughts, at the head of its text or as a turn before it,
and the rendered mark is replaced by the thoughts as the template shows them in the loop under way. Probes
tell what is possible.
"""

import re
import secrets
from collections import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..protocols import TemplateMessage
from .fitted_turns import PROBE_NAME, in_order, probe_call
from .template_messages import model_turn, user_turn

TryRender = Callable[[abc.Sequence[TemplateMessage], dict[str, Any]], str | None]
"""Renders a probe with variables of the template; None where the template refuses it."""

SWITCHES: tuple[tuple[str, bool], ...] = (
    ("preserve_thinking", True),
    ("clear_thinking", False),
    ("truncate_history_thinking", False),
    ("drop_thinking", False),
)
"""Variables by which templates keep the thoughts of all turns, each with the value that does."""

KEY = "reasoning_content"
ASKED, THOUGHT, ANSWER, VALUE, LATER = (
    "probe-asked",
    "probe-thought",
    "probe-answer",
    "probe-value",
    "probe-later",
)


@dataclass(frozen=True, slots=True)
class Frame:
    """The texts that a template writes around thoughts, and what it writes where an answer has none.

    gap: a pattern of what the template writes only because there is a mark in place of no text. is_turn: the
    mark is a turn of its own, for templates that show no text beside calls, or not before them.
    """

    before: str
    after: str
    empty: tuple[str, ...]
    gap: str
    is_turn: bool = False


@dataclass(frozen=True, slots=True)
class KeptThoughts:
    """One template's way to keep thoughts; without settings and frame it needs none, or has none."""

    settings: dict[str, Any] = field(default_factory=dict)
    frame: Frame | None = None

    def render(self, messages: list[TemplateMessage], render: Callable[[list[TemplateMessage]], str]) -> str:
        """Render messages with the thoughts of all answers."""
        if self.frame is None:
            return render(messages)
        mark = f"kept{secrets.token_hex(8)}n"
        thoughts: list[str] = []
        marked = _with_marks(messages, mark, thoughts, self.frame.is_turn)
        return _with_thoughts(render(marked), self.frame, mark, thoughts) if thoughts else render(messages)


def find_kept_thoughts(render: TryRender, thinking: dict[str, Any]) -> KeptThoughts:
    """Find a template's way. thinking: the variables that switch thinking on."""
    later = [*_loop(ANSWER), model_turn("-"), user_turn(LATER)]
    text = render(later, thinking)
    if text is None:  # some refuse text between thoughts and a call
        later = [*_loop(""), *later[3:]]
        text = render(later, thinking)
    if text is None or THOUGHT in text:
        return KeptThoughts()
    for name, value in SWITCHES:
        text = render(later, thinking | {name: value})
        if text is not None and in_order(text, [ASKED, THOUGHT, ANSWER, LATER]):
            return KeptThoughts({name: value})
    for frame in (*_frames(render, thinking, later), *_turn_frames(render, thinking)):
        kept = KeptThoughts(frame=frame)
        if _agrees(kept, render, thinking):
            return kept
    return KeptThoughts()


def _frames(render: TryRender, thinking: dict[str, Any], later: list[TemplateMessage]) -> Iterator[Frame]:
    """Yield frames that may be the template's, of a loop under way and of one before the user's words."""
    mark = "kept-probe-"
    native = render(_loop(ANSWER), thinking)
    marked = [render(_with_marks(messages, mark, []), thinking) or "" for messages in (_loop(ANSWER), later)]
    is_shown = native is not None and in_order(native, [ASKED, THOUGHT, ANSWER, VALUE])
    if native is None or not is_shown or any(mark not in text for text in marked):
        return
    begin = next(i for i, chars in enumerate(zip(native, *marked, strict=False)) if len(set(chars)) > 1)
    end = native.find(THOUGHT)
    after = native[end + len(THOUGHT) : native.find(ANSWER)]
    empty = sorted({text[begin : text.find(mark)] for text in marked}, key=len, reverse=True)
    for gap in (r"\s*", ""):
        yield Frame(native[begin:end], after, tuple(empty), gap)


def _turn_frames(render: TryRender, thinking: dict[str, Any]) -> Iterator[Frame]:
    """Yield the frame of marks that are turns, if the template shows them in the thoughts' place."""
    mark = "kept-probe-"
    native = render(_loop(""), thinking)
    marked = render(_with_marks(_loop(""), mark, [], is_turn=True), thinking)
    if native is None or marked is None or THOUGHT not in native or f"{mark}0." not in marked:
        return
    begin = _num_shared(native, marked)
    end = _num_shared(native[begin:][::-1], marked[begin:][::-1])
    thoughts, mark_turn = native[begin : len(native) - end], marked[begin : len(marked) - end]
    before, found, after = thoughts.partition(THOUGHT)
    lead, found_mark, gap = mark_turn.partition(f"{mark}0.")
    if found and found_mark:
        yield Frame(before, after, (lead,), re.escape(gap), is_turn=True)


def _num_shared(a: str, b: str) -> int:
    """Return how many characters two texts have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _agrees(kept: KeptThoughts, render: TryRender, thinking: dict[str, Any]) -> bool:
    """Return whether the loop under way looks as the template shows it, and earlier ones have thoughts."""

    def shown(messages: list[TemplateMessage]) -> str:
        return kept.render(messages, lambda marked: render(marked, thinking) or "")

    text = ANSWER if kept.frame is not None and not kept.frame.is_turn else ""
    loops = [_loop(text), _loop(""), [*_loop(text), *_loop("")[1:]]]
    if any(shown(loop) != render(loop, thinking) for loop in loops):
        return False
    conversation = [*_loop(text), model_turn("-") | {KEY: "probe-second"}, user_turn(LATER), *_loop("")[1:]]
    words = [ASKED, THOUGHT, text or VALUE, "probe-second", LATER]
    return in_order(shown(conversation), words) and shown(conversation).count(THOUGHT) == 2


def _loop(text: str) -> list[TemplateMessage]:
    """Return a question, an answer with thoughts and a call, and the call's result."""
    call = probe_call(VALUE)
    result = {"role": "tool", "tool_call_id": call["id"], "name": PROBE_NAME, "content": "probe-result"}
    return [user_turn(ASKED), model_turn(text) | {KEY: THOUGHT, "tool_calls": [call]}, result]


def _with_marks(
    messages: list[TemplateMessage], mark: str, thoughts: list[str], is_turn: bool = False
) -> list[TemplateMessage]:
    """Return messages with marks in place of their thoughts, which are added to `thoughts`."""
    marked: list[TemplateMessage] = []
    for message in messages:
        if message.get(KEY, "").strip():
            own_mark = f"{mark}{len(thoughts)}."
            thoughts.append(message[KEY].strip())
            message = {key: value for key, value in message.items() if key != KEY}
            if is_turn:
                marked.append(model_turn(own_mark))
            else:
                message["content"] = own_mark + message["content"]
        marked.append(message)
    return marked


def _with_thoughts(text: str, frame: Frame, mark: str, thoughts: list[str]) -> str:
    """Put thoughts in the places of their marks."""
    empty = "|".join(map(re.escape, frame.empty))
    pattern = re.compile(rf"(?:{empty})?{mark}(\d+)\.{frame.gap}")
    return pattern.sub(lambda found: frame.before + thoughts[int(found[1])] + frame.after, text)
