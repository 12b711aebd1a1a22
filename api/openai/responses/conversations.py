"""The conversations behind requests: what `previous_response_id` and references name, and what is kept."""

import logging
from dataclasses import dataclass, field
from typing import Any

from ...errors import InvalidRequest
from ...lenient import Json
from .conversation_store import ConversationStore, StoredConversation
from .input_items import InputItem, ReferenceItem, read_items
from .response_store import ResponseStore, StoredItem, StoredResponse
from .responses_request import ResponsesRequest
from .stored_form import as_json, stored_item

LOST = b"""{"type":"message","role":"assistant","id":"msg_lost",
"content":"[an earlier item left out: this server has kept it no longer]"}"""

MAX_REFERRED_BYTES = 32 * 1024 * 1024  # as of a body

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stores:
    """What the server keeps for the Responses API."""

    responses: ResponseStore = field(default_factory=ResponseStore)
    conversations: ConversationStore = field(default_factory=ConversationStore)


class Conversation:
    """The items that one request shows to the model."""

    def __init__(self, stores: Stores, owner: str, body: ResponsesRequest) -> None:
        """Read the conversation. Raises InvalidRequest where what the request goes on from is not kept.

        owner: the key of the client that asks.
        """
        self.owner = owner
        self._store = store = stores.responses
        self._conversations = stores.conversations
        self._named = self._named_conversation(body.conversation_id)
        self._is_stored = body.is_stored
        self._context = self._named.items if self._named else self._previous(body.previous_response_id)
        self._own = list(zip(body.items, body.input, strict=True))  # each item with its JSON
        found = {
            item.id: store.item(owner, item.id) for item in body.items if isinstance(item, ReferenceItem)
        }
        self._found = {item_id: item for item_id, item in found.items() if item is not None}
        if len(self._found) < len(found):
            num_lost = len(found) - len(self._found)
            logger.warning("%d items that a request refers to are no longer kept: noted", num_lost)

    def items(self) -> list[InputItem]:
        """Return the earlier items, then the request's own. Takes a while where they are many.

        Items that references name stand in their places, or notes where they are not kept: the session must
        go on. Raises InvalidRequest where they are more than a body could hold.
        """
        texts = [self._text(item) for item, _ in self._own if isinstance(item, ReferenceItem)]
        if sum(map(len, texts)) > MAX_REFERRED_BYTES:
            raise InvalidRequest(f"input: the items referred to have more than {MAX_REFERRED_BYTES} bytes")
        referred = iter(read_items(texts))
        own = [next(referred) if isinstance(item, ReferenceItem) else item for item, _ in self._own]
        return [*read_items(item.text for item in self._context), *own]

    def own_input(self) -> tuple[StoredItem, ...]:
        """Return the request's own items as the stores keep them, each with an id; none if nobody keeps them.

        Takes a while where they are many.
        """
        if not self._is_stored and self._named is None:
            return ()
        return tuple(self._stored(item, raw) for item, raw in self._own)

    def stored_items(self) -> tuple[StoredItem, ...]:
        """Return all items, earlier ones and the request's own, as they would be kept. Takes a while."""
        return self._context + tuple(self._stored(item, raw) for item, raw in self._own)

    def entry(self, own_input: tuple[StoredItem, ...], body: dict[str, Any]) -> StoredResponse:
        """Return the response with its conversation. body: of the response, as it is now."""
        output = tuple(StoredItem(item["id"], as_json(item)) for item in body["output"])
        return StoredResponse(self.owner, as_json(body), self._context, own_input, output)

    def keep(self, answer_id: str, own_input: tuple[StoredItem, ...], body: dict[str, Any]) -> None:
        """Put the response into the stores. body: of the response, which has ended.

        answer_id: the same for all requests that read one answer; a named conversation has its turn once.
        """
        entry = self.entry(own_input, body)
        if self._is_stored:
            self._store.put(body["id"], entry)
        if self._named is not None and body["status"] in ("completed", "incomplete"):
            self._conversations.add_answer(self._named, answer_id, entry.own_input + entry.output)

    def _named_conversation(self, conversation_id: str | None) -> StoredConversation | None:
        if conversation_id is None:
            return None
        entry = self._conversations.get(self.owner, conversation_id)
        if entry is None:
            raise InvalidRequest(f"conversation: {conversation_id!r} is not kept here", reason="conversation")
        return entry

    def _previous(self, response_id: str | None) -> tuple[StoredItem, ...]:
        if response_id is None:
            return ()
        entry = self._store.get(self.owner, response_id)
        if entry is None:
            raise InvalidRequest(
                f"previous_response_id: {response_id!r} is not kept here, or has not ended: wait for it, "
                "or send the whole conversation",
                reason="previous_response",
            )
        return entry.conversation

    def _text(self, item: ReferenceItem) -> bytes:
        """Return the JSON of the item that a reference names, or of a note."""
        found = self._found.get(item.id)
        return found.text if found else LOST

    def _stored(self, item: InputItem, raw: Json) -> StoredItem:
        if isinstance(item, ReferenceItem):
            return self._found.get(item.id) or StoredItem(item.id, LOST)
        return stored_item(item, raw)
