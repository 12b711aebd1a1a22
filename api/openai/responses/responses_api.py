"""`POST /v1/responses`, and the routes beside it that take a request's body."""

import asyncio
import logging
import time
from collections import abc
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from ...answer_options import answer_options
from ...body import read_body
from ...errors import RESPONSES_PATH, InvalidRequest
from ...models import check_model
from ...pipeline import Pipeline
from ...preparation import PreparedRequest
from ...request_origin import owner_of
from ...schema import MessagesRequest
from ...services import Services
from ..chat import messages_request
from ..logprob_bodies import ChatLogprobs
from .background import BackgroundRun, BackgroundRuns
from .client_tools import ClientTool
from .compaction import CompactionBuilder, compacting_item, user_items
from .conversations import Conversation, Stores
from .conversations_api import ConversationsApi
from .input_items import InputItem
from .kept_responses import KeptResponses
from .output_items import OutputShape
from .response_writers import BackgroundWriter, ResponseBuilder, ResponseHead, ResponseStreamWriter
from .responses_request import CountedRequest, ResponsesRequest, chat_request, tools_of
from .session_tools import SessionTools

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
        self._stores = Stores()
        self._runs = BackgroundRuns()
        self._kept = KeptResponses(self._stores.responses, self._runs, services.keep_alive)
        self._sessions = SessionTools()
        self._noted: set[str] = set()  # types of tools whose absence the log has told

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route(RESPONSES_PATH, self.create, methods=["POST"], response_model=None)
        counting = f"{RESPONSES_PATH}/input_tokens"
        router.add_api_route(counting, self.count_tokens, methods=["POST"], response_model=None)
        compacting = f"{RESPONSES_PATH}/compact"
        router.add_api_route(compacting, self.compact, methods=["POST"], response_model=None)
        router.include_router(self._kept.router())
        router.include_router(ConversationsApi(self._stores.conversations).router())
        return router

    async def create(self, request: HttpRequest) -> Response:
        """Answer a conversation: as a stream, whole, or in the background."""
        started_s = time.monotonic()
        body = await read_body(request, ResponsesRequest)
        asked = await self._asked(request, body)
        prepared = await self._prepare(request, asked, started_s)
        self._sessions.keep(owner_of(request).hex(), body)
        own_input = await asyncio.to_thread(asked.conversation.own_input)

        def keep(response: dict[str, Any]) -> None:
            asked.conversation.keep(prepared.request.request_id, own_input, response)

        head, shape = ResponseHead.of(body), self._shape(asked)
        if body.background:
            writer, answer = BackgroundWriter(head, shape, keep), self._pipeline.start(prepared)
            place = request.state.key_place.pop_all()  # not before the start, which may raise
            return self._in_background(
                request, BackgroundRun(answer, writer, asked.conversation, own_input, place), body.stream
            )
        if body.stream:
            return self._pipeline.stream(prepared, ResponseStreamWriter(head, shape, keep))
        return await self._pipeline.whole(request, prepared, ResponseBuilder(head, shape, keep))

    def _in_background(self, request: HttpRequest, run: BackgroundRun, is_stream: bool) -> Response:
        """Start a run, which goes on without its client; return its events, or the queued response."""
        self._runs.start(run)
        if is_stream:
            return self._kept.stream(request, run.response_id, after=-1)
        return JSONResponse(run.body)

    async def count_tokens(self, request: HttpRequest) -> Response:
        """Count the tokens of a conversation's prompt."""
        started_s = time.monotonic()
        asked = await self._asked(request, await read_body(request, CountedRequest))
        space = request.state.account.space
        options = replace(answer_options(asked.request, self._services.thinking), space=space)
        count = await self._services.prompts.count(asked.request, options, owner_of(request))
        self._services.metrics.tokens_counted(time.monotonic() - started_s)
        return JSONResponse({"object": "response.input_tokens", "input_tokens": count.num_tokens})

    async def compact(self, request: HttpRequest) -> Response:
        """Answer a conversation with a shorter one: the user's words, and the model's summary of all."""
        started_s = time.monotonic()
        body = await read_body(request, ResponsesRequest)
        if body.stream or body.background:
            raise InvalidRequest("stream, background: a compacted conversation is sent whole")
        asked = await self._asked(request, body, last=[compacting_item()])
        prepared = await self._prepare(request, asked, started_s)
        said = await asyncio.to_thread(lambda: user_items(asked.conversation.stored_items()))
        return await self._pipeline.whole(request, prepared, CompactionBuilder(said))

    async def _asked(
        self, request: HttpRequest, body: ResponsesRequest, last: abc.Sequence[InputItem] = ()
    ) -> Asked:
        """Read a request to the end. last: items for the conversation's end. Raises what reading raises."""
        check_model(body.model, self._services.model.name)
        owner = owner_of(request).hex()
        conversation = Conversation(self._stores, owner, body)
        shown = self._sessions.completed(owner, body)
        asked, left_out = await asyncio.to_thread(_translate, shown, conversation, last)
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

    def _shape(self, asked: Asked) -> OutputShape:
        body, model_format = asked.body, self._services.model_format
        return OutputShape(
            tools=asked.tools,
            thoughts_as_summary=body.wants_summary,
            seals_thoughts=body.includes("reasoning.encrypted_content"),
            omits_thoughts=body.omits_thoughts,
            logprobs=None if asked.num_likeliest is None else ChatLogprobs(model_format),
        )

    def _note(self, left_out: list[str]) -> None:
        """Log each type of tools that is left out once: Codex sends some with every request."""
        for kind in set(left_out) - self._noted:
            self._noted.add(kind)
            logger.info("tools of type %s are left out: this server does not run them", kind)


def _translate(
    body: ResponsesRequest, conversation: Conversation, last: abc.Sequence[InputItem]
) -> tuple[Asked, list[str]]:
    """Translate a request; beside it stand the types of the tools that are left out. Takes a while."""
    items = [*conversation.items(), *last]
    tools, left_out = tools_of(body, items)
    chat = chat_request(body, items, tools)
    return Asked(body, conversation, tools, messages_request(chat), chat.num_likeliest), left_out
