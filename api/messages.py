"""`POST /v1/messages` and `/v1/messages/count_tokens`."""

import time

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from .answer_options import answer_options
from .body import read_body
from .models import check_model
from .output.message_events import MessageBodyBuilder, MessageStreamWriter
from .pipeline import Pipeline
from .prompt.counts import Counts
from .prompt.kept_replies import owner_of
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
        prepared = await self._pipeline.conversation(request, body, started_s)
        if body.stream:
            return self._pipeline.stream(prepared, MessageStreamWriter(body.model, body.omits_thoughts))
        return await self._pipeline.whole(
            request, prepared, MessageBodyBuilder(body.model, body.omits_thoughts)
        )

    async def count_tokens(self, request: HttpRequest) -> Response:
        """Count the tokens of a conversation's prompt, tools and system text included."""
        started_s = time.monotonic()
        num_tokens = await self._counts.get(await request.body(), lambda: self._count(request))
        self._services.metrics.tokens_counted(time.monotonic() - started_s)
        return JSONResponse({"input_tokens": num_tokens})

    async def _count(self, request: HttpRequest) -> int:
        body = await read_body(request, CountTokensRequest)
        check_model(body.model, self._services.model.name)
        options = answer_options(body, self._services.thinking)
        return await self._services.prompts.count(body, options, owner_of(request.headers))
