"""Puts the sampled tokens of earlier replies in the place of what a template makes of them.

Clients rewrite the model's calls, and templates leave out empty thoughts: the prompt of a conversation's next
turn would part from the tokens that were computed, at the last reply or at its header. So a reply that the
client sends back is rendered as words, its place is found by them, and its own tokens are put there, behind
the header that its prompt had.

One rule says where. The client's message must hold the reply's text, its thoughts and its calls, but for
the changes that `client_rewrites.py` knows; and thoughts that are not empty must be shown by the template. A
reply that the user has edited, or of which the template leaves anything out, is rendered anew.
"""

import secrets
from bisect import bisect_left
from collections import abc
from dataclasses import dataclass, replace

from ..answer_options import AnswerOptions
from ..formats.reply_contents import KeptCall
from ..protocols import TemplateMessage
from .client_rewrites import own_folders, same_arguments
from .fitted_turns import PROBE_KEY
from .kept_replies import (
    ConversationKeys,
    Header,
    KeptReply,
    Kind,
    ReplyHistory,
    ReplyKeeper,
)
from .reply_places import Contexts, ReplyPlaces, ReplyWords
from .special_tokens import SpecialTokens
from .template_messages import with_ids, with_own_ids
from .written_ids import written_ids


@dataclass(frozen=True, slots=True)
class FoundReply:
    """A kept reply that a conversation holds. index: of its message. places: where the template shows it."""

    index: int
    kept: KeptReply
    words: ReplyWords
    places: Contexts
    ids: tuple[str, ...]  # of its calls, as the template would show them


@dataclass(frozen=True, slots=True)
class KnownConversation:
    """A request's conversation with the replies that are kept of it.

    place: see ConversationKeys. kind: of the messages since the last reply.
    """

    owner: bytes
    messages: list[TemplateMessage]
    options: AnswerOptions
    place: bytes
    kind: Kind
    replies: tuple[FoundReply, ...] = ()

    @property
    def shown(self) -> list[TemplateMessage]:
        """The messages, with words in the place of the replies."""
        messages = list(self.messages)
        for reply in self.replies:
            messages[reply.index] = reply.words.message
        return messages

    def without(self, missed: abc.Collection[FoundReply]) -> "KnownConversation":
        """Return the conversation with some of its replies rendered anew."""
        indices = {reply.index for reply in missed}
        return replace(self, replies=tuple(reply for reply in self.replies if reply.index not in indices))


@dataclass(frozen=True, slots=True)
class PromptPart:
    """A part of a prompt: a rendered text, and the reply that follows it, if one does.

    offsets: of characters of `text`.
    """

    text: str
    offsets: tuple[int, ...] = ()
    reply: abc.Sequence[int] = ()


class ExactHistory:
    """Finds kept replies in conversations, and puts their tokens into prompts."""

    def __init__(
        self,
        places: ReplyPlaces,
        max_bytes: int,
        id_form: str,
        special_tokens: SpecialTokens,
    ) -> None:
        """id_form: in which the template shows calls' ids."""
        self.replies = ReplyHistory(max_bytes)
        self._places = places
        self._id_form = id_form
        self._special_tokens = special_tokens

    def read(
        self,
        owner: bytes,
        system: abc.Sequence[str],
        messages: list[TemplateMessage],
        options: AnswerOptions,
    ) -> KnownConversation:
        """Read a conversation, and find the replies that are kept of it.

        Calls of those get the ids that the model has written, and so do their results.
        """
        messages = list(messages)
        keys, kind, found = ConversationKeys(owner, system), Kind(), list[FoundReply]()
        rewrites = _Rewrites(
            {tool.name: tool.input_schema for tool in options.tools},
            own_folders([*system, *(message["content"] for message in messages[:1])]),
        )
        base = f"q{secrets.token_hex(8)}q"
        for index, (message, own) in enumerate(zip(messages, with_ids(messages, self._id_form), strict=True)):
            if message["role"] == "assistant":
                kept = self.replies.find(keys.reply_key(message))
                if kept is not None and kept.header.kind == kind and _is_same(kept, message, rewrites):
                    ids = tuple(call["id"] for call in own.get("tool_calls", ()))
                    written = written_ids(self._special_tokens.decode(list(kept.tokens))) if ids else ()
                    if len(written) == len(ids) and ids:
                        ids = written
                        message = messages[index] = with_own_ids(message, ids)
                    words = _in_words(message, f"{base}{index}q")
                    places = self._places.find(words, kind, options)
                    found.append(FoundReply(index, kept, words, places, ids))
                kind = ()
            elif kind[-1:] != (message["role"],):
                kind = (*kind, message["role"])
            keys.add(message)
        last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)
        replies = tuple(
            reply
            for reply in found
            if reply.index + 1 < len(messages)  # an answer that comes last is to be continued
            and reply.places[reply.index < last] is not None
        )
        return KnownConversation(owner, messages, options, keys.place, kind, replies)

    def keeper(self, conversation: KnownConversation, text: str, ending: str) -> ReplyKeeper | None:
        """Return what keeps the answers to a prompt; None where the end of its text is not understood.

        text: of the prompt, as the template has rendered it. ending: what was added to it.
        """
        header = self._places.header(text, conversation.kind, conversation.options)
        if header is None:
            return None
        whole = Header(conversation.kind, header + ending)
        is_plain = self._special_tokens.keep_out_of
        return ReplyKeeper(self.replies, conversation.owner, conversation.place, whole, is_plain)

    def cut(
        self, text: str, conversation: KnownConversation, offsets: abc.Sequence[int]
    ) -> tuple[list[PromptPart], tuple[FoundReply, ...]]:
        """Cut a rendered text at the replies, and put their headers and tokens there.

        offsets: of characters of `text`, in ascending order. Returns the parts, and the replies whose places
        were not found; if there are any, the parts are of no use.
        """
        parts: list[PromptPart] = []
        missed: list[FoundReply] = []
        begin = 0
        for reply in conversation.replies:
            header = reply.kept.header.text
            words = reply.words.span(text, begin)
            span = self._places.locate(text, words, header, reply.places) if words else None
            if span is None or not self._fits(text, begin, span, reply):
                missed.append(reply)
                continue
            start, end = span
            within = _within(offsets, begin, start)
            parts.append(PromptPart(text[begin:start] + header, within, reply.kept.tokens))
            begin = end
        parts.append(PromptPart(text[begin:], _within(offsets, begin, len(text))))
        return parts, tuple(missed)

    def _fits(self, text: str, begin: int, span: tuple[int, int], reply: FoundReply) -> bool:
        """Return whether a reply's tokens may stand at `span` in a text whose part from `begin` on is left.

        Where the template shows the ids of calls, results name them too: the model must have written them.
        """
        start, end = span
        if start < begin or not self._special_tokens.begins(text, end):
            return False
        shown = [call_id for call_id in reply.ids if text.find(call_id, start, end) >= 0]
        written = self._special_tokens.decode(list(reply.kept.tokens)) if shown else ""
        return all(call_id in written for call_id in shown)


def _within(offsets: abc.Sequence[int], begin: int, end: int) -> tuple[int, ...]:
    """Return the offsets between two places, counted from the first."""
    first = bisect_left(offsets, begin)
    return tuple(offset - begin for offset in offsets[first:] if offset <= end)


@dataclass(frozen=True, slots=True)
class _Rewrites:
    """What a client's changes to calls may depend on. schemas: of tools, by name. folders: the session's."""

    schemas: dict[str, dict[str, object]]
    folders: frozenset[str]

    def lead(self, call: KeptCall, arguments: dict[str, object]) -> bool:
        """Return whether a client's changes lead from a call to some arguments."""
        schema = self.schemas.get(call.name, {})
        return same_arguments(call.name, call.arguments, arguments, schema, self.folders)


def _is_same(kept: KeptReply, message: TemplateMessage, rewrites: _Rewrites) -> bool:
    """Return whether a client's message means the same as the reply that was kept."""
    calls = [(call["id"], call["function"]) for call in message.get("tool_calls", ())]
    return (
        kept.text.strip() == message["content"].strip()
        and kept.thoughts.strip() == message.get("reasoning_content", "").strip()
        and [(call_id, function["name"]) for call_id, function in calls]
        == [(call.call_id, call.name) for call in kept.calls]
        and all(
            rewrites.lead(call, function["arguments"])
            for call, (_, function) in zip(kept.calls, calls, strict=True)
        )
    )


def _in_words(message: TemplateMessage, base: str) -> ReplyWords:
    """Return a reply with a word in the place of each of its parts."""
    shown: TemplateMessage = {"role": "assistant", "content": f"{base}c" if message["content"] else ""}
    words = [shown["content"]] if message["content"] else []
    thoughts = f"{base}t" if message.get("reasoning_content", "").strip() else None
    if thoughts is not None:
        shown["reasoning_content"] = thoughts
    calls = []
    for place, call in enumerate(message.get("tool_calls", ())):
        words.append(f"{base}{place}a")
        key = next(iter(call["function"]["arguments"]), PROBE_KEY)
        function = {"name": call["function"]["name"], "arguments": {key: words[-1]}}
        calls.append(call | {"function": function})
    if calls:
        shown["tool_calls"] = calls
    return ReplyWords(shown, thoughts, tuple(words))
