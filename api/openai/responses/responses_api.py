"""`POST /v1/responses`, and the routes that read or delete what was kept of a response."""

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from ...answer_options import answer_options
from ...body import read_body
from ...errors import RESPONSES_PATH, InvalidRequest, NotFound
from ...models import check_model
from ...pipeline import Pipeline
from ...preparation import PreparedRequest
from ...prompt.kept_replies import owner_of
from ...schema import MessagesRequest
from ...services import Services
from ..chat import messages_request
from ..logprob_bodies import ChatLogprobs
from .client_tools import ClientTool
from .conversations import Conversation
from .output_items import OutputShape
from .response_store import ResponseStore, StoredResponse
from .response_writers import ResponseBuilder, ResponseHead, ResponseStreamWriter
from .responses_request import CountedRequest, ResponsesRequest, chat_request, tools_of
from .session_tools import SessionTools

MAX_PAGE = 100

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """What one request asks for: `request` in the pipeline's words."""

    body: ResponsesRequest
    conversation: Conversation
    tools: dict[str, ClientTool]
    request: MessagesRequest
    num_likeliest: int | None


class ResponsesApi:
    """The routes of OpenAI's Responses API."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._pipeline = Pipeline(services)
        self._store = ResponseStore()
        self._sessions = SessionTools()
        self._noted: set[str] = set()  # types of tools whose absence the log has told

    def router(self) -> APIRouter:
        """Return the routes."""
        router, one = APIRouter(), RESPONSES_PATH + "/{response_id}"
        router.add_api_route(RESPONSES_PATH, self.create, methods=["POST"], response_model=None)
        counting = f"{RESPONSES_PATH}/input_tokens"
        router.add_api_route(counting, self.count_tokens, methods=["POST"], response_model=None)
        compacting = f"{RESPONSES_PATH}/compact"
        router.add_api_route(compacting, self.compact, methods=["POST"], response_model=None)
        router.add_api_route(f"{one}/cancel", self.cancel, methods=["POST"], response_model=None)
        router.add_api_route(one, self.retrieve, methods=["GET"], response_model=None)
        router.add_api_route(one, self.delete, methods=["DELETE"], response_model=None)
        router.add_api_route(f"{one}/input_items", self.input_items, methods=["GET"], response_model=None)
        return router

    async def create(self, request: HttpRequest) -> Response:
        """Answer a conversation, as a stream or whole."""
        started_s = time.monotonic()
        body = await read_body(request, ResponsesRequest)
        asked = await self._asked(request, body)
        prepared = await self._prepare(request, asked, started_s)
        self._sessions.keep(owner_of(request.headers).hex(), body)
        own_input = await asyncio.to_thread(asked.conversation.own_input) if body.is_stored else ()

        def keep(response: dict[str, Any]) -> None:
            if body.is_stored:
                asked.conversation.keep(own_input, response)

        head, shape = ResponseHead.of(body), self._shape(asked)
        if body.stream:
            return self._pipeline.stream(prepared, ResponseStreamWriter(head, shape, keep))
        return await self._pipeline.whole(request, prepared, ResponseBuilder(head, shape, keep))

    async def count_tokens(self, request: HttpRequest) -> Response:
        """Count the tokens of a conversation's prompt."""
        started_s = time.monotonic()
        asked = await self._asked(request, await read_body(request, CountedRequest))
        options = answer_options(asked.request, self._services.thinking)
        count = await self._services.prompts.count(asked.request, options, owner_of(request.headers))
        self._services.metrics.tokens_counted(time.monotonic() - started_s)
        return JSONResponse({"object": "response.input_tokens", "input_tokens": count.num_tokens})

    async def _asked(self, request: HttpRequest, body: ResponsesRequest) -> Asked:
        """Read a request to the end. Raises InvalidRequest or NotFound."""
        check_model(body.model, self._services.model.name)
        owner = owner_of(request.headers).hex()
        conversation = Conversation(self._store, owner, body)
        shown = self._sessions.completed(owner, body)
        asked, left_out = await asyncio.to_thread(_translate, shown, conversation)
        self._note(left_out)
        return asked

    async def _prepare(self, request: HttpRequest, asked: Asked, started_s: float) -> PreparedRequest:
        """Prepare the answer; with `truncation: auto`, without the oldest messages if all do not fit."""
        messages = asked.request.messages
        while True:
            kept = asked.request.model_copy(update={"messages": messages})
            try:
                return await self._pipeline.prepare.conversation(
                    request, kept, started_s, asked.num_likeliest
                )
            except InvalidRequest as error:
                may_drop = asked.body.truncation == "auto" and len(messages) > 1
                if error.reason != "prompt_too_long" or not may_drop:
                    raise
            messages = messages[max(1, len(messages) // 4) :]

    async def retrieve(self, request: HttpRequest, response_id: str) -> Response:
        """Return a response that was kept. Raises NotFound."""
        if request.query_params.get("stream") == "true":
            raise InvalidRequest("stream: a response that has ended is sent whole by this server")
        return Response(self._find(request, response_id).body, media_type="application/json")

    async def cancel(self, request: HttpRequest, response_id: str) -> Response:
        """Refuse to cancel a response: none is in the background. Raises NotFound or InvalidRequest."""
        self._find(request, response_id)
        raise InvalidRequest("cancel: the response has ended; a running one ends with its connection")

    async def compact(self) -> Response:
        """Refuse to compact a conversation. Raises InvalidRequest."""
        raise InvalidRequest("compact: not supported by this server; a response can be asked for a summary")

    async def delete(self, request: HttpRequest, response_id: str) -> Response:
        """Forget a response. Raises NotFound."""
        self._find(request, response_id)
        self._store.delete(owner_of(request.headers).hex(), response_id)
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

    def _shape(self, asked: Asked) -> OutputShape:
        body, model_format = asked.body, self._services.model_format
        return OutputShape(
            tools=asked.tools,
            thoughts_as_summary=body.wants_summary,
            seals_thoughts=body.includes("reasoning.encrypted_content"),
            omits_thoughts=body.omits_thoughts,
            logprobs=None if asked.num_likeliest is None else ChatLogprobs(model_format),
        )

    def _find(self, request: HttpRequest, response_id: str) -> StoredResponse:
        entry = self._store.get(owner_of(request.headers).hex(), response_id)
        if entry is None:
            raise NotFound(f"no response {response_id[:100]!r} is kept here", reason="response")
        return entry

    def _note(self, left_out: list[str]) -> None:
        """Log each type of tools that is left out once: Codex sends some with every request."""
        for kind in set(left_out) - self._noted:
            self._noted.add(kind)
            logger.info("tools of type %s are left out: this server cannot search the web", kind)


def _translate(body: ResponsesRequest, conversation: Conversation) -> tuple[Asked, list[str]]:
    """Translate a request; beside it stand the types of the tools that are left out. Takes a while."""
    items = conversation.items()
    tools, left_out = tools_of(body, items)
    chat = chat_request(body, items, tools)
    return Asked(body, conversation, tools, messages_request(chat), chat.num_likeliest), left_out
