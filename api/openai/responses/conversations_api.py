"""`/v1/conversations`: conversations that the server keeps, and their items."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BeforeValidator, FailFast, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from ...body import read_body
from ...errors import CONVERSATIONS_PATH, NotFound
from ...request_origin import owner_of
from ...wire_base import Wire
from .conversation_store import ConversationStore, StoredConversation
from .input_items import InputItem
from .item_pages import item_list, item_page
from .response_store import StoredItem
from .responses_request import Metadata
from .stored_form import stored_item


def _none_as_empty(value: object) -> object:
    return [] if value is None else value


class NewItems(Wire):
    """Items for a conversation."""

    items: Annotated[list[InputItem], FailFast(), BeforeValidator(_none_as_empty)] = Field(default=[])
    raw: Annotated[list[Any], BeforeValidator(_none_as_empty)] = Field(default=[], validation_alias="items")

    def stored(self) -> tuple[StoredItem, ...]:
        """Return the items as they are kept. Takes a while where they are many."""
        return tuple(stored_item(*pair) for pair in zip(self.items, self.raw, strict=True))


class ConversationBody(NewItems):
    """Body of `/v1/conversations`."""

    metadata: Metadata = None


class ConversationsApi:
    """The routes of OpenAI's Conversations API."""

    def __init__(self, store: ConversationStore) -> None:
        self._store = store

    def router(self) -> APIRouter:
        """Return the routes."""
        router, one = APIRouter(), CONVERSATIONS_PATH + "/{conversation_id}"
        items, item = f"{one}/items", one + "/items/{item_id}"
        for path, method, endpoint in (
            (CONVERSATIONS_PATH, "POST", self.create),
            (one, "GET", self.retrieve),
            (one, "POST", self.update),
            (one, "DELETE", self.delete),
            (items, "GET", self.list_items),
            (items, "POST", self.add_items),
            (item, "GET", self.retrieve_item),
            (item, "DELETE", self.delete_item),
        ):
            router.add_api_route(path, endpoint, methods=[method], response_model=None)
        return router

    async def create(self, request: HttpRequest) -> Response:
        """Make a conversation, perhaps with items."""
        body = await read_body(request, ConversationBody)
        items = await asyncio.to_thread(body.stored)
        return JSONResponse(self._store.create(_owner(request), body.metadata or {}, items).body)

    async def retrieve(self, request: HttpRequest, conversation_id: str) -> Response:
        """Return a conversation without its items. Raises NotFound."""
        return JSONResponse(self._find(request, conversation_id).body)

    async def update(self, request: HttpRequest, conversation_id: str) -> Response:
        """Replace a conversation's metadata. Raises NotFound."""
        body = await read_body(request, ConversationBody)
        entry = self._find(request, conversation_id)
        entry.metadata = body.metadata or {}
        return JSONResponse(entry.body)

    async def delete(self, request: HttpRequest, conversation_id: str) -> Response:
        """Forget a conversation. Raises NotFound."""
        self._store.delete(self._find(request, conversation_id))
        return JSONResponse({"id": conversation_id, "object": "conversation.deleted", "deleted": True})

    async def list_items(self, request: HttpRequest, conversation_id: str) -> Response:
        """Return a page of a conversation's items. Raises NotFound or InvalidRequest."""
        return JSONResponse(item_page(self._find(request, conversation_id).items, request.query_params))

    async def add_items(self, request: HttpRequest, conversation_id: str) -> Response:
        """Add items to the end of a conversation. Raises NotFound."""
        body = await read_body(request, NewItems)
        items = await asyncio.to_thread(body.stored)
        self._store.add(self._find(request, conversation_id), items)
        return JSONResponse(item_list(items))

    async def retrieve_item(self, request: HttpRequest, conversation_id: str, item_id: str) -> Response:
        """Return one item of a conversation. Raises NotFound."""
        item = _item_of(self._find(request, conversation_id), item_id)
        return Response(item.text, media_type="application/json")

    async def delete_item(self, request: HttpRequest, conversation_id: str, item_id: str) -> Response:
        """Take one item out of a conversation. Raises NotFound."""
        entry = self._find(request, conversation_id)
        self._store.remove(entry, _item_of(entry, item_id))
        return JSONResponse(entry.body)

    def _find(self, request: HttpRequest, conversation_id: str) -> StoredConversation:
        entry = self._store.get(_owner(request), conversation_id)
        if entry is None:
            raise NotFound(f"no conversation {conversation_id[:100]!r} is kept here", reason="conversation")
        return entry


def _owner(request: HttpRequest) -> str:
    return owner_of(request).hex()


def _item_of(entry: StoredConversation, item_id: str) -> StoredItem:
    item = next((item for item in entry.items if item.id == item_id), None)
    if item is None:
        raise NotFound(f"the conversation has no item {item_id[:100]!r}", reason="item")
    return item
