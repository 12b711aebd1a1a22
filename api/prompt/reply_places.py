"""Finds where a chat template writes a reply, so that the reply's own tokens can stand there.

A reply is rendered as words that stand for its thoughts, its text and the arguments of its calls. What the
template writes between the last message's words and the first of these words, and behind the last of them, is
learnt from a short conversation of the same form. So nothing is known of any template before.
"""

from collections import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..answer_options import AnswerOptions, ThinkingOptions
from ..formats.tool_calls.template_tools import head_tools
from ..protocols import TemplateMessage
from .fitted_turns import probe_call
from .kept_replies import Kind
from .raw_template import TemplateError
from .shared_head import ordered_tools
from .template_messages import model_turn, user_turn

Render = Callable[[list[TemplateMessage], list[dict[str, Any]], ThinkingOptions], str]
"""Renders a conversation without a system text, up to where the model's next answer begins."""

FIRST, ASKED = "probe-first", "probe-asked"
FOLLOWING, ANSWERED, LATER = "probe-following", "probe-answered", "probe-later"

MAX_KNOWN = 1000
"""Forms of replies whose places are remembered."""

SLACK = 8
"""Characters by which a text around a reply may be longer than in the probe: calls' numbers, in their ids."""


@dataclass(frozen=True, slots=True)
class ReplyWords:
    """A reply as a message of words: those of its thoughts, None without any, and of its text and calls."""

    message: TemplateMessage
    thoughts: str | None
    words: tuple[str, ...]

    def span(self, text: str, begin: int = 0) -> tuple[int, int] | None:
        """Return where, in a text from `begin` on, the first word begins and the last one ends.

        None where a word is missing.
        """
        wanted = [*self.words, *([self.thoughts] if self.thoughts else [])]
        places = [(text.find(word, begin), len(word)) for word in wanted]
        if any(place < 0 for place, _ in places):
            return None
        return min(place for place, _ in places), max(place + length for place, length in places)

    @property
    def form(self) -> tuple[Any, ...]:
        """All of a reply on which its place may depend, but for its context."""
        functions = [call["function"] for call in self.message.get("tool_calls", ())]
        calls = [(function["name"], *function["arguments"]) for function in functions]
        return (bool(self.message["content"]), self.thoughts is not None, *calls)


@dataclass(frozen=True, slots=True)
class ReplyPlace:
    """What a template writes around a reply's words in one context.

    before: from the words of the message before, or the last id behind them, to the reply's first word.
    num_after: characters from the reply's last word to the token that ends it.
    has_end: such a token is there; else the reply ends with its last word.
    """

    before: str
    num_after: int
    has_end: bool

    def start(self, text: str, first: int, header: str) -> int | None:
        """Return where `header`, the end of the reply's prompt, begins; None where it is not there.

        first: where the reply's first word begins.
        """
        common = _beginning(header, self.before)
        place = first - len(self.before)
        if not common or place < 0:
            return None
        if text.startswith(common, place):
            return place
        found = text.rfind(common, max(place - SLACK, 0), first)
        return found if abs(found - place) <= SLACK and len(common) > SLACK else None


Contexts = tuple[ReplyPlace | None, ReplyPlace | None]
"""A reply's place in the turn that is under way, and behind later questions; None where it has none."""


class ReplyPlaces:
    """The places of replies in one template, with what its probes have found. For several threads at once."""

    def __init__(self, render: Render, end_texts: abc.Iterable[str]) -> None:
        """end_texts: the texts of the tokens that end an answer."""
        self._render = render
        self._end_texts = [text for text in end_texts if text]
        self._places: dict[tuple[Any, ...], Contexts] = {}
        self._headers: dict[tuple[Any, ...], tuple[str, str]] = {}

    def header(self, text: str, kind: Kind, options: AnswerOptions) -> str | None:
        """Return the end of a prompt's text behind the words of its last message; None if it is not known."""
        _, header = self._find_header(kind, options)
        return header if header and text.endswith(header) else None

    def locate(
        self, text: str, words: tuple[int, int], header: str, contexts: Contexts
    ) -> tuple[int, int] | None:
        """Return where a reply and its header begin and end in a text; None where they are not there.

        words: where the reply's words begin and end. header: the end of the reply's prompt.
        """
        first, last = words
        for place in filter(None, contexts):
            start, end = place.start(text, first, header), self._end(text, last, place)
            if start is not None and end is not None:
                return start, end
        return None

    def _end(self, text: str, last: int, place: ReplyPlace) -> int | None:
        if not place.has_end:
            return last
        within = last + place.num_after + SLACK
        ends = [found for end in self._end_texts if (found := text.find(end, last, within + len(end))) >= 0]
        return min(ends, default=None)

    def find(self, reply: ReplyWords, kind: Kind, options: AnswerOptions) -> Contexts:
        """Return the reply's places in the turn that is under way, and after the user's next question."""
        key = (reply.form, kind, *_key(options))
        found = self._places.get(key)
        if found is None:
            now, later = (self._probe(reply, kind, options, is_later) for is_later in (False, True))
            found = now, later
            _remember(self._places, key, found)
        return found

    def _find_header(self, kind: Kind, options: AnswerOptions) -> tuple[str, str]:
        """Return what a prompt has behind its last message's words, up to a call's id, and the rest.

        The rest, which is the same in all such prompts, is empty where the template refuses the probes.
        """
        key = (kind, *_key(options))
        found = self._headers.get(key)
        if found is None:
            leads = [list(_lead(kind, call)) for call in (1, 2)]
            texts = [self._try(lead, options) or "" if lead else "" for lead in leads]
            first, second = (text.rpartition(ASKED)[2] for text in texts)
            length = len(_beginning(first[::-1], second[::-1]))
            found = first[: len(first) - length], first[len(first) - length :]
            _remember(self._headers, key, found)
        return found

    def _probe(
        self, reply: ReplyWords, kind: Kind, options: AnswerOptions, is_later: bool
    ) -> ReplyPlace | None:
        lead = list(_lead(kind, 1))
        if not lead:
            return None
        calls = reply.message.get("tool_calls", ())
        after = [_result(call, FOLLOWING) for call in calls] or [user_turn(FOLLOWING)]
        if is_later:
            after += [model_turn(ANSWERED), user_turn(LATER)]
        text = self._try([*lead, reply.message, *after], options)
        span = reply.span(text) if text is not None else None
        if text is None or span is None:
            return None
        begin = text.find(ASKED) + len(ASKED) + len(self._find_header(kind, options)[0])
        follower = text.find(FOLLOWING, begin)
        if not len(ASKED) <= begin <= span[0] <= span[1] <= follower:
            return None
        closing = text[span[1] : follower]
        ends = [found for end in self._end_texts if (found := closing.find(end)) >= 0]
        if calls and not ends:
            return None
        return ReplyPlace(text[begin : span[0]], min(ends, default=0), bool(ends))

    def _try(self, messages: list[TemplateMessage], options: AnswerOptions) -> str | None:
        try:
            return self._render(messages, head_tools(ordered_tools(options.tools)), options.thinking)
        except TemplateError:
            return None


def _beginning(a: str, b: str) -> str:
    """Return the longest text with which both begin."""
    length = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return a[:length]


def _remember(known: dict[tuple[Any, ...], Any], key: tuple[Any, ...], found: Any) -> None:
    if len(known) >= MAX_KNOWN:
        known.clear()
    known[key] = found


def _key(options: AnswerOptions) -> tuple[Any, ...]:
    return (repr(options.thinking), tuple(tool.name for tool in options.tools), options.space)


def _lead(kind: Kind, number: int) -> Iterator[TemplateMessage]:
    """Yield a conversation that ends with messages of some roles; the last one's words are ASKED.

    number: by which the ids of its calls differ from those of other conversations.
    """
    if kind[:1] != ("user",):
        yield user_turn(FIRST)
    if kind[:1] == ("system",):
        yield model_turn(ANSWERED)
    for place, role in enumerate(kind):
        words = ASKED if place == len(kind) - 1 else f"{FIRST}-{place}"
        if role == "tool":
            call = probe_call(ANSWERED, number)
            yield model_turn("") | {"tool_calls": [call]}
            yield _result(call, words)
        else:
            yield {"role": role, "content": words}


def _result(call: TemplateMessage, words: str) -> TemplateMessage:
    name = call["function"]["name"]
    return {"role": "tool", "tool_call_id": call["id"], "name": name, "content": words}
