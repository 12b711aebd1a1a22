"""`POST /v1/responses`, and the routes that read or delete what was kept of a response."""

import asyncio
import hashlib
import json
import logging
import time
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from ...body import read_body
from ...errors import RESPONSES_PATH, InvalidRequest, NotFound
from ...models import check_model
from ...pipeline import Pipeline
from ...services import Services
from ..chat import messages_request
from ..logprob_bodies import ChatLogprobs
from .client_tools import ClientTool, read_tools
from .conversations import Conversation
from .output_items import OutputShape
from .response_store import ResponseStore, StoredResponse
from .response_writers import ResponseBuilder, ResponseHead, ResponseStreamWriter
from .responses_request import ResponsesRequest, chat_request

MAX_PAGE = 100

logger = logging.getLogger(__name__)


class ResponsesApi:
    """The routes of OpenAI's Responses API."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._pipeline = Pipeline(services)
        self._store = ResponseStore()
        self._noted: set[str] = set()  # types of tools whose absence the log has told

    def router(self) -> APIRouter:
        """Return the routes."""
        router, one = APIRouter(), RESPONSES_PATH + "/{response_id}"
        router.add_api_route(RESPONSES_PATH, self.create, methods=["POST"], response_model=None)
        router.add_api_route(one, self.retrieve, methods=["GET"], response_model=None)
        router.add_api_route(one, self.delete, methods=["DELETE"], response_model=None)
        router.add_api_route(f"{one}/input_items", self.input_items, methods=["GET"], response_model=None)
        return router

    async def create(self, request: HttpRequest) -> Response:
        """Answer a conversation, as a stream or whole."""
        started_s = time.monotonic()
        body = await read_body(request, ResponsesRequest)
        check_model(body.model, self._services.model.name)
        tools, left_out = read_tools(body.tools or ())
        self._note(left_out)
        conversation = Conversation(self._store, _owner(request), body)
        chat = chat_request(body, await asyncio.to_thread(lambda: conversation.items), tools)
        prepared = await self._pipeline.conversation(
            request, messages_request(chat), started_s, chat.num_likeliest
        )
        own_input = await asyncio.to_thread(conversation.own_input) if body.is_stored else ()

        def keep(response: dict[str, Any]) -> None:
            if body.is_stored:
                conversation.keep(own_input, response)

        head, shape = ResponseHead.of(body), self._shape(body, tools, chat.logprobs is True)
        if body.stream:
            return self._pipeline.stream(prepared, ResponseStreamWriter(head, shape, keep))
        return await self._pipeline.whole(request, prepared, ResponseBuilder(head, shape, keep))

    async def retrieve(self, request: HttpRequest, response_id: str) -> Response:
        """Return a response that was kept. Raises NotFound."""
        if request.query_params.get("stream") == "true":
            raise InvalidRequest("stream: a response that has ended is sent whole by this server")
        return Response(self._find(request, response_id).body, media_type="application/json")

    async def delete(self, request: HttpRequest, response_id: str) -> Response:
        """Forget a response. Raises NotFound."""
        self._find(request, response_id)
        self._store.delete(_owner(request), response_id)
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})

    async def input_items(self, request: HttpRequest, response_id: str) -> Response:
        """Return a page of the items that a kept response answers, the newest first. Raises NotFound."""
        items, query = list(self._find(request, response_id).input), request.query_params
        if query.get("order", "desc") != "asc":
            items.reverse()
        ids = [item.id for item in items]
        start = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
        limit = query.get("limit", "20")
        if not (limit.isdecimal() and limit.isascii() and 1 <= int(limit[:9]) <= MAX_PAGE):
            raise InvalidRequest(f"limit: must lie between 1 and {MAX_PAGE}")
        page = [json.loads(item.text) for item in items[start : start + int(limit)]]
        ends = {name: page[i]["id"] if page else None for name, i in (("first_id", 0), ("last_id", -1))}
        has_more = len(items) > start + len(page)
        return JSONResponse({"object": "list", "data": page, "has_more": has_more} | ends)

    def _shape(self, body: ResponsesRequest, tools: dict[str, ClientTool], logprobs: bool) -> OutputShape:
        return OutputShape(
            tools=tools,
            thoughts_as_summary=body.wants_summary,
            seals_thoughts=body.includes("reasoning.encrypted_content"),
            logprobs=ChatLogprobs(self._services.model_format) if logprobs else None,
        )

    def _find(self, request: HttpRequest, response_id: str) -> StoredResponse:
        entry = self._store.get(_owner(request), response_id)
        if entry is None:
            raise NotFound(f"no response {response_id[:100]!r} is kept here", reason="response")
        return entry

    def _note(self, left_out: list[str]) -> None:
        """Log each type of tools that is left out once: Codex sends some with every request."""
        for kind in set(left_out) - self._noted:
            self._noted.add(kind)
            logger.info("tools of type %s are left out: this server cannot search the web", kind)


def _owner(request: HttpRequest) -> str:
    """Return a digest of the client's key: a client finds only what was kept for its own key."""
    keys = [request.headers.get(name, "") for name in ("authorization", "x-api-key")]
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()
