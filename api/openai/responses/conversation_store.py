"""Conversations that clients keep here by name: the items of all their requests and answers, in memory."""

import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .open_items import new_id
from .response_store import StoredItem

MAX_BYTES = 64 * 1024 * 1024  # of all conversations
MAX_CONVERSATIONS = 1000
MAX_ANSWERS = 64  # whose ids are remembered of a conversation
ITEM_BYTES = 200  # that an item takes beside its text, about


@dataclass(slots=True)
class StoredConversation:
    """A conversation. owner: the key of the client that made it; other clients do not find it.

    answers: ids of the latest answers whose items it has.
    """

    owner: str
    metadata: dict[str, str]
    id: str = field(default_factory=lambda: new_id("conv"))
    created_at: int = field(default_factory=lambda: int(time.time()))
    items: tuple[StoredItem, ...] = ()
    answers: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_ANSWERS))

    @property
    def body(self) -> dict[str, Any]:
        """The conversation as its client sees it."""
        named = {"id": self.id, "object": "conversation", "created_at": self.created_at}
        return named | {"metadata": self.metadata}


class ConversationStore:
    """The conversations used last, as many as fit."""

    def __init__(self, max_bytes: int = MAX_BYTES, max_conversations: int = MAX_CONVERSATIONS) -> None:
        self._max_bytes = max_bytes
        self._max_conversations = max_conversations
        self._entries: OrderedDict[str, StoredConversation] = OrderedDict()
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_bytes(self) -> int:
        """Bytes of all items, about."""
        return self._num_bytes

    def create(
        self, owner: str, metadata: dict[str, str], items: Iterable[StoredItem] = ()
    ) -> StoredConversation:
        """Make a conversation, and drop those that were used longest ago where the store is full."""
        entry = StoredConversation(owner, metadata)
        self._entries[entry.id] = entry
        self.add(entry, items)
        return entry

    def get(self, owner: str, conversation_id: str) -> StoredConversation | None:
        """Return a conversation that `owner` has made; None where none is kept."""
        entry = self._entries.get(conversation_id)
        if entry is None or entry.owner != owner:
            return None
        self._entries.move_to_end(conversation_id)
        return entry

    def add(self, entry: StoredConversation, items: Iterable[StoredItem]) -> None:
        """Add items to the end of a conversation. One that has been dropped meanwhile stays so."""
        if self._entries.get(entry.id) is not entry:
            return
        added = tuple(items)
        entry.items += added
        self._num_bytes += _size(added)
        self._entries.move_to_end(entry.id)
        while self._entries and (
            self._num_bytes > self._max_bytes or len(self._entries) > self._max_conversations
        ):
            self.delete(next(iter(self._entries.values())))

    def add_answer(self, entry: StoredConversation, answer_id: str, items: Iterable[StoredItem]) -> None:
        """Add the items of a turn, unless another reader of the same answer has added them."""
        if answer_id not in entry.answers:
            entry.answers.append(answer_id)
            self.add(entry, items)

    def remove(self, entry: StoredConversation, item: StoredItem) -> None:
        """Take one item out of a conversation."""
        entry.items = tuple(kept for kept in entry.items if kept is not item)
        self._num_bytes -= _size([item])

    def delete(self, entry: StoredConversation) -> None:
        """Drop a conversation."""
        if self._entries.pop(entry.id, None) is not None:
            self._num_bytes -= _size(entry.items)


def _size(items: Iterable[StoredItem]) -> int:
    return sum(len(item.text) + ITEM_BYTES for item in items)
