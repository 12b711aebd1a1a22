"""The conversations behind requests: what `previous_response_id` and references name, and what is kept."""

import logging
from typing import Any

from ...errors import InvalidRequest
from ...lenient import Json
from ...output.message_events import compact_json
from .input_items import InputItem, ReferenceItem, read_items
from .open_items import new_id
from .response_store import ResponseStore, StoredItem, StoredResponse
from .responses_request import ResponsesRequest

LOST = b"""{"type":"message","role":"assistant","id":"msg_lost",
"content":"[an earlier item left out: this server has kept it no longer]"}"""

MAX_REFERRED_BYTES = 32 * 1024 * 1024  # as of a body

ID_PREFIXES = {"message": "msg", "function_call": "fc", "reasoning": "rs"}

logger = logging.getLogger(__name__)


class Conversation:
    """The items that one request shows to the model."""

    def __init__(self, store: ResponseStore, owner: str, body: ResponsesRequest) -> None:
        """Read the conversation. Raises InvalidRequest where the previous response is not kept.

        owner: the key of the client that asks.
        """
        self._store = store
        self._owner = owner
        self._context = self._previous(body.previous_response_id)
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
        """Return the request's own items as the store keeps them, each with an id."""
        return tuple(self._stored(item, raw) for item, raw in self._own)

    def keep(self, own_input: tuple[StoredItem, ...], body: dict[str, Any]) -> None:
        """Put the response into the store. body: of the response that has ended."""
        output = tuple(StoredItem(item["id"], _json(item)) for item in body["output"])
        entry = StoredResponse(self._owner, _json(body), self._context, own_input, output)
        self._store.put(body["id"], entry)

    def _previous(self, response_id: str | None) -> tuple[StoredItem, ...]:
        if response_id is None:
            return ()
        entry = self._store.get(self._owner, response_id)
        if entry is None:
            raise InvalidRequest(
                f"previous_response_id: {response_id!r} is not kept here: send the whole conversation",
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
        item_id = item.id or new_id(ID_PREFIXES.get(item.type, "item"))
        return StoredItem(item_id, _json(raw | {"type": item.type, "id": item_id}))


def _json(value: dict[str, Any]) -> bytes:
    return compact_json(value).encode()
