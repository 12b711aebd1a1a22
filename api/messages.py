"""`POST /v1/messages` and `/v1/messages/count_tokens`."""

import asyncio
import secrets
import time
from typing import TypeVar

from fastapi import APIRouter
from pydantic_core import from_json
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from ..scheduler.sequence import Request
from .answer import Answer
from .errors import ClientGone, InvalidRequest, prompt_too_long
from .models import check_model
from .output import Grammar, OutputParser
from .prompt import Prompt
from .schema import CountTokensRequest, MessagesRequest, sampling_params
from .services import Services
from .stream import MessageStream, until_disconnect, whole_message

LARGE_BODY_BYTES = 64 * 1024  # parsing less takes no longer than handing it to a thread
MAX_SESSION_CHARS = 200

Body = TypeVar("Body", bound=CountTokensRequest)


class MessagesApi:
    """The two routes that take a conversation."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def router(self) -> APIRouter:
        """List the routes."""
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
        prompt = await self._build(body)
        work = self._scheduled(body, prompt, request.headers.get("x-claude-code-session-id"))
        grammar = self._grammar(body, prompt)

        def start() -> Answer:
            generation = self._services.scheduler.submit(work)
            parser = OutputParser(self._services.new_detokenizer(), grammar)
            return Answer(generation, parser, self._services.metrics, started_s)

        if body.stream:
            return MessageStream(start, body.model, self._services.keep_alive)
        answer = start()
        try:
            message = await until_disconnect(request.receive, whole_message(answer, body.model))
        finally:
            answer.close()
        if message is None:
            raise ClientGone("the client closed the connection")
        return JSONResponse(message)

    async def count_tokens(self, request: HttpRequest) -> Response:
        """Count a conversation's prompt, tools and system text included."""
        started_s = time.monotonic()
        body = await read_body(request, CountTokensRequest)
        check_model(body.model, self._services.model.name)
        prompt = await self._build(body)
        self._services.metrics.tokens_counted(time.monotonic() - started_s)
        return JSONResponse({"input_tokens": len(prompt.tokens)})

    async def _build(self, body: CountTokensRequest) -> Prompt:
        prompt = await self._services.prompts.build(body)
        self._services.metrics.prompt_built(prompt.template_s, prompt.tokenize_s)
        return prompt

    def _scheduled(self, body: MessagesRequest, prompt: Prompt, session: str | None) -> Request:
        """Make the scheduler's request; `max_tokens` is cut to what the context leaves."""
        model = self._services.model
        room = model.max_context - len(prompt.tokens)
        if room < 1:
            raise prompt_too_long(len(prompt.tokens), model.max_context - 1)
        seed = secrets.randbits(63)
        return Request(
            prompt=prompt.tokens,
            sampling=sampling_params(body, model.default_sampling, model.vocab_size, seed),
            max_tokens=min(body.max_tokens, room),
            stop_token_ids=model.eos_token_ids,
            session=session[:MAX_SESSION_CHARS] if session else None,
        )

    def _grammar(self, body: MessagesRequest, prompt: Prompt) -> Grammar:
        return Grammar(
            stop_sequences=body.stop_sequences or (),
            tool_format=prompt.tool_format,
            tools=prompt.tools,
            think=self._services.think,
            starts_thinking=prompt.starts_thinking,
            one_call=body.tool_choice is not None and body.tool_choice.disable_parallel_tool_use,
        )


async def read_body(request: HttpRequest, kind: type[Body]) -> Body:
    """Read and check a request's body, large ones off the event loop.

    Raises InvalidRequest for what is no JSON (NaN, bad UTF-8 and nesting past 200 levels are none here), and
    pydantic's ValidationError for JSON of another form.
    """
    raw = await request.body()
    if len(raw) < LARGE_BODY_BYTES:
        return parse_body(raw, kind)
    return await asyncio.to_thread(parse_body, raw, kind)


def parse_body(raw: bytes, kind: type[Body]) -> Body:
    """Check a body; see `read_body`."""
    try:
        content = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", reason="invalid") from None
    return kind.model_validate(content)
