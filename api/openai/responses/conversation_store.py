"""Conversations that clients keep here by name: the items of all their requests and answers, in memory."""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .open_items import new_id
from .owned_store import OwnedStore
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
    def num_bytes(self) -> int:
        """Bytes of the items, about."""
        return _size(self.items)

    @property
    def body(self) -> dict[str, Any]:
        """The conversation as its client sees it."""
        named = {"id": self.id, "object": "conversation", "created_at": self.created_at}
        return named | {"metadata": self.metadata}


class ConversationStore(OwnedStore[StoredConversation]):
    """The conversations used last, as many as fit."""

    def __init__(self, max_bytes: int = MAX_BYTES, max_conversations: int = MAX_CONVERSATIONS) -> None:
        super().__init__(max_bytes, max_conversations)

    def create(
        self, owner: str, metadata: dict[str, str], items: Iterable[StoredItem] = ()
    ) -> StoredConversation:
        """Make a conversation."""
        entry = StoredConversation(owner, metadata, items=tuple(items))
        self._keep(entry.id, entry)
        return entry

    def add(self, entry: StoredConversation, items: Iterable[StoredItem]) -> None:
        """Add items to the end of a conversation. One that has been dropped meanwhile stays so."""
        if self._entries.get(entry.id) is not entry:
            return
        added = tuple(items)
        entry.items += added
        self._grow(entry.id, _size(added))

    def add_answer(self, entry: StoredConversation, answer_id: str, items: Iterable[StoredItem]) -> None:
        """Add the items of a turn, unless another reader of the same answer has added them."""
        if answer_id not in entry.answers:
            entry.answers.append(answer_id)
            self.add(entry, items)

    def remove(self, entry: StoredConversation, item: StoredItem) -> None:
        """Take one item out of a conversation."""
        if self._entries.get(entry.id) is entry:
            entry.items = tuple(kept for kept in entry.items if kept is not item)
            self._grow(entry.id, -_size([item]))

    def delete(self, entry: StoredConversation) -> None:
        """Drop a conversation."""
        if entry.id in self._entries:
            self._drop(entry.id)


def _size(items: Iterable[StoredItem]) -> int:
    return sum(len(item.text) + ITEM_BYTES for item in items)
