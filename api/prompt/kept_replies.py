"""Keeps the tokens of the model's replies, by their calls, or by the conversations in which they stand."""

import hashlib
import threading
from array import array
from collections import OrderedDict, abc
from collections.abc import Callable
from dataclasses import dataclass
from sys import getsizeof

from ..formats.output_events import OutputEvent
from ..formats.reply_contents import KeptCall, reply_contents
from ..protocols import TemplateMessage

Kind = tuple[str, ...]
"""The roles of the messages since the reply before, each once where it stands several times in a row."""

REPLY_BYTES, CALL_BYTES = 1000, 800
"""Memory of a reply and of a call beside their texts and tokens: objects, the place in the dictionary."""


@dataclass(frozen=True, slots=True)
class Header:
    """The end of a reply's prompt, behind the last message's words. kind: of the messages before it."""

    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class KeptReply:
    """A reply: its tokens without the stop token, and what the client was told of them."""

    header: Header
    tokens: "array[int]"
    text: str
    thoughts: str
    calls: tuple[KeptCall, ...]

    @property
    def num_bytes(self) -> int:
        """The memory that the reply takes, about."""
        texts = getsizeof(self.text) + getsizeof(self.thoughts) + getsizeof(self.tokens)
        calls = sum(CALL_BYTES + 2 * len(str(call.arguments)) for call in self.calls)
        return REPLY_BYTES + texts + calls


class ReplyHistory:
    """The replies kept or found last, up to a number of bytes. For several threads at once."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._num_bytes = 0
        self._lock = threading.Lock()
        self._replies: OrderedDict[bytes, KeptReply] = OrderedDict()  # the latest used at the end

    @property
    def num_bytes(self) -> int:
        """The memory that all replies take, about."""
        return self._num_bytes

    def keep(self, key: bytes, reply: KeptReply) -> None:
        """Keep a reply; the replies that were not used for longest may make room for it."""
        with self._lock:
            known = self._replies.pop(key, None)
            self._num_bytes += reply.num_bytes - (known.num_bytes if known else 0)
            self._replies[key] = reply
            while self._num_bytes > self.max_bytes:
                self._num_bytes -= self._replies.popitem(last=False)[1].num_bytes

    def find(self, key: bytes) -> KeptReply | None:
        """Return the reply that is kept under a key; None for none."""
        with self._lock:
            reply = self._replies.get(key)
            if reply is not None:
                self._replies.move_to_end(key)
            return reply


@dataclass(frozen=True, slots=True)
class ReplyKeeper:
    """Keeps the replies to one prompt.

    owner: digest of the API key. place: see ConversationKeys. is_plain: tells, of tokens and of the words
    that the client was told of them, whether no special token stands in the words.
    """

    history: ReplyHistory
    owner: bytes
    place: bytes
    header: Header
    is_plain: Callable[[abc.Sequence[int], str], bool]

    def keep(self, tokens: abc.Sequence[int], events: abc.Sequence[OutputEvent]) -> None:
        """Keep a reply that has ended.

        A reply without words or calls is not kept, as nothing shows its place in a prompt; nor is one that
        has a call that was cut off, or whose arguments are no JSON, or a special token in its words: sent
        back by a client, the token's letters are text.

        tokens: all that were sampled, the stop token left out. events: all that were read in them.
        """
        reply = reply_contents(events)
        if not tokens or reply is None or not (reply.text or reply.thoughts or reply.calls):
            return
        if not self.is_plain(tokens, reply.words):
            return
        if reply.calls:
            key = call_key(self.owner, reply.calls[0].call_id)
        else:
            key = text_key(self.place, reply.text, reply.thoughts)
        kept = KeptReply(self.header, array("I", tokens), reply.text, reply.thoughts, reply.calls)
        self.history.keep(key, kept)


class ConversationKeys:
    """The digest of a conversation up to each message: two conversations that agree so far have the same.

    Calls count by their ids alone, since clients rewrite them, and thoughts not at all.
    """

    def __init__(self, owner: bytes, system: abc.Iterable[str]) -> None:
        self._owner = owner
        self._hash = hashlib.blake2b(owner, digest_size=16)
        _add(self._hash, *system)

    @property
    def place(self) -> bytes:
        """The digest of all messages so far."""
        return self._hash.digest()

    def add(self, message: TemplateMessage) -> None:
        """Add the conversation's next message."""
        calls = [call["id"] for call in message.get("tool_calls", ())]
        ids = [message["tool_call_id"]] if "tool_call_id" in message else calls
        _add(self._hash, message["role"], message["content"].strip(), *ids)

    def reply_key(self, message: TemplateMessage) -> bytes:
        """Return the key of the reply that the next message, an answer of the model, may be."""
        if calls := message.get("tool_calls"):
            return call_key(self._owner, calls[0]["id"])
        return text_key(self.place, message["content"], message.get("reasoning_content", ""))


def call_key(owner: bytes, call_id: str) -> bytes:
    """Return the key of a reply with calls."""
    return _digest(owner, "call", call_id)


def text_key(place: bytes, text: str, thoughts: str) -> bytes:
    """Return the key of a reply without calls, to the conversation at `place`."""
    return _digest(place, "text", text.strip(), thoughts.strip())


def _digest(start: bytes, *texts: str) -> bytes:
    found = hashlib.blake2b(start, digest_size=16)
    _add(found, *texts)
    return found.digest()


def _add(found: "hashlib.blake2b", *texts: str) -> None:
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        found.update(b"%d:" % len(encoded))
        found.update(encoded)
