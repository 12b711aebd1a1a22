"""`POST /v1/messages` and `/v1/messages/count_tokens`."""

import time
from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from .answer_options import answer_options
from .body import read_body
from .models import check_model
from .output.message_events import MessageBodyBuilder, MessageStreamWriter
from .pipeline import Pipeline
from .prompt.counts import Counts
from .prompt.prompt import PromptCount
from .request_origin import owner_of
from .schema import CountTokensRequest, MessagesRequest
from .services import Services


class MessagesApi:
    """The two routes of Anthropic's API that take a conversation."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._pipeline = Pipeline(services)
        self._counts = Counts()

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route("/v1/messages", self.create, methods=["POST"], response_model=None)
        router.add_api_route(
            "/v1/messages/count_tokens", self.count_tokens, methods=["POST"], response_model=None
        )
        return router

    async def create(self, request: HttpRequest) -> Response:
        """Answer a conversation, as a stream or whole."""
        started_s = time.monotonic()
        body = await read_body(request, MessagesRequest)
        check_model(body.model, self._services.model.name)
        prepared = await self._pipeline.prepare.conversation(request, body, started_s)
        prepared = self._pipeline.with_server_tools(request, body, prepared)
        shape = body.model, body.omits_thoughts, prepared.edits
        if body.stream:
            return self._pipeline.stream(prepared, MessageStreamWriter(*shape))
        return await self._pipeline.whole(request, prepared, MessageBodyBuilder(*shape))

    async def count_tokens(self, request: HttpRequest) -> Response:
        """Count the tokens of a conversation's prompt, tools and system text included."""
        started_s = time.monotonic()
        owner = owner_of(request)
        found = await self._counts.get(owner, await request.body(), lambda: self._count(request, owner))
        self._services.metrics.tokens_counted(time.monotonic() - started_s)
        count: dict[str, Any] = {"input_tokens": found.num_tokens}
        if found.edits is not None:
            count["context_management"] = {"original_input_tokens": found.edits.num_original}
        return JSONResponse(count)

    async def _count(self, request: HttpRequest, owner: bytes) -> PromptCount:
        body = await read_body(request, CountTokensRequest)
        check_model(body.model, self._services.model.name)
        space = request.state.account.space
        options = replace(answer_options(body, self._services.thinking), space=space)
        return await self._services.prompts.count(body, options, owner)
