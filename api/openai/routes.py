"""OpenAI's routes: `POST /v1/chat/completions` and `/v1/completions`."""

import asyncio
import time

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ..body import read_body
from ..errors import OPENAI_PATHS
from ..models import check_model
from ..pipeline import Pipeline
from ..services import Services
from .chat import messages_request
from .chunks import (
    ChatBodyBuilder,
    ChatStreamWriter,
    CompletionBodyBuilder,
    CompletionStreamWriter,
    join_choices,
)
from .logprob_bodies import ChatLogprobs, CompletionLogprobs
from .requests import ChatRequest, CompletionRequest

MANY_MESSAGES = 500
"""Messages that are translated on the event loop, at some 8 us each; more are in a thread."""


class OpenAIApi:
    """The two routes of OpenAI's API that generate."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._pipeline = Pipeline(services)

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        for path, endpoint in zip(OPENAI_PATHS, (self.chat, self.complete), strict=True):
            router.add_api_route(path, endpoint, methods=["POST"], response_model=None)
        return router

    async def chat(self, request: HttpRequest) -> Response:
        """Answer a conversation, as a stream or whole."""
        started_s = time.monotonic()
        body = await read_body(request, ChatRequest)
        check_model(body.model, self._services.model.name)
        is_long = len(body.messages) > MANY_MESSAGES
        asked = await asyncio.to_thread(messages_request, body) if is_long else messages_request(body)
        prepared = await self._pipeline.prepare.conversation(request, asked, started_s, body.num_likeliest)
        logprobs = ChatLogprobs(self._services.model_format) if body.logprobs else None
        if body.stream:
            writer = ChatStreamWriter(body.model, body.include_usage, logprobs, body.omits_thoughts)
            return self._pipeline.stream_choices(prepared, writer.choices(body.num_choices))
        builders = [
            ChatBodyBuilder(body.model, logprobs, body.omits_thoughts) for _ in range(body.num_choices)
        ]
        return await self._pipeline.whole_choices(request, prepared, builders, join_choices)

    async def complete(self, request: HttpRequest) -> Response:
        """Continue a prompt that goes to the model as it is."""
        started_s = time.monotonic()
        body = await read_body(request, CompletionRequest)
        check_model(body.model, self._services.model.name)
        prepared = await self._pipeline.prepare.raw(
            request, body.generation_request(), body.prompt, started_s, body.logprobs
        )
        logprobs = CompletionLogprobs(self._services.model_format) if body.logprobs is not None else None
        if body.stream:
            writer = CompletionStreamWriter(body.model, body.include_usage, logprobs)
            return self._pipeline.stream_choices(prepared, writer.choices(body.num_choices))
        builders = [CompletionBodyBuilder(body.model, logprobs) for _ in range(body.num_choices)]
        return await self._pipeline.whole_choices(request, prepared, builders, join_choices)
