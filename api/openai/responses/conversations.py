"""The conversations behind requests: what `previous_response_id` and references name, and what is kept."""

import json
import logging
from typing import Any

from ...errors import InvalidRequest
from ...lenient import Json
from ...output.message_events import compact_json
from .input_items import InputItem, ReferenceItem, read_items
from .open_items import new_id
from .response_store import ResponseStore, StoredItem, StoredResponse
from .responses_request import ResponsesRequest

LOST = "[an earlier item left out: this server has kept it no longer]"

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
        self._num_lost = self._num_bytes = 0  # of items that references name
        self._own = [self._resolve(item, raw) for item, raw in zip(body.items, body.input, strict=True)]
        if self._num_lost:
            logger.warning("%d items that a request refers to are no longer kept: noted", self._num_lost)

    @property
    def items(self) -> list[InputItem]:
        """The earlier items, then the request's own."""
        return [*read_items(item.text for item in self._context), *(item for item, _ in self._own)]

    def own_input(self) -> tuple[StoredItem, ...]:
        """Return the request's own items as the store keeps them, each with an id."""
        return tuple(_stored(item, raw) for item, raw in self._own)

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

    def _resolve(self, item: InputItem, raw: Json) -> tuple[InputItem, Json]:
        """Return the item that a reference names, or a note where it is not kept: the session must go on.

        Beside the item stands its JSON.
        """
        if not isinstance(item, ReferenceItem):
            return item, raw
        found = self._store.item(self._owner, item.id)
        self._num_lost += found is None
        text = found.text if found else _json({"role": "assistant", "content": LOST})
        self._num_bytes += len(text)
        if self._num_bytes > MAX_REFERRED_BYTES:
            raise InvalidRequest(f"input: the items referred to have more than {MAX_REFERRED_BYTES} bytes")
        (kept,) = read_items([text])
        return kept, json.loads(text)


def _stored(item: InputItem, raw: Json) -> StoredItem:
    item_id = item.id or new_id(ID_PREFIXES.get(item.type, "item"))
    return StoredItem(item_id, _json(raw | {"type": item.type, "id": item_id}))


def _json(value: dict[str, Any]) -> bytes:
    return compact_json(value).encode()
