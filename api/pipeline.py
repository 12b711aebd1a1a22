"""Turns a prepared request into its answer: queues the request, sends the answer."""

import asyncio
from collections import abc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from .output.answer import Answer, SampledAnswer, Usage
from .output.answer_reader import AnswerReader
from .output.choices import ChoicesStream, ChoiceWriter, total_usage
from .output.parser import OutputParser
from .output.prompt_only_stream import PromptOnlyStream
from .output.request_record import RequestRecord
from .output.resumable_stream import ResumableTokenStream
from .output.server_tool_answer import rounds_of
from .output.stream import AnswerStream, BodyBuilder, StreamWriter, while_connected, whole_message
from .output.thinking_budget import BudgetedReader
from .preparation import Preparation, PreparedRequest
from .schema import MessagesRequest
from .services import Services

JoinBodies = Callable[[abc.Sequence[dict[str, Any]], Usage], dict[str, Any]]
"""Makes one body of those of a request's choices, and of their usage together."""


class Pipeline:
    """Prepares and answers requests, for all routes that generate."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.prepare = Preparation(services)

    def with_server_tools(
        self, http: HttpRequest, body: MessagesRequest, prepared: PreparedRequest
    ) -> PreparedRequest:
        """Return a conversation's request that runs the server tools of the body, if it has any."""

        async def go_on(grown: MessagesRequest) -> Answer:
            return self.start(await self.prepare.later_round(http, grown))

        return replace(prepared, in_rounds=rounds_of(body, self._services.search, go_on))

    def stream(self, prepared: PreparedRequest, writer: StreamWriter) -> Response:
        """Return a response that queues the request and streams its answer."""
        return AnswerStream(lambda: self._start_all([prepared]), writer, self._services.keep_alive)

    def stream_choices(self, prepared: PreparedRequest, writers: abc.Sequence[ChoiceWriter]) -> Response:
        """Return a response that queues the request once for each writer and streams all answers."""
        choices = prepared.choices(len(writers))
        return ChoicesStream(lambda: self._start_all(choices), writers, self._services.keep_alive)

    async def whole(self, http: HttpRequest, prepared: PreparedRequest, builder: BodyBuilder) -> Response:
        """Queue the request, wait for its answer, and return it whole. Raises ClientGone."""
        return await self._whole(http, [prepared], [builder], lambda bodies, _: bodies[0])

    async def whole_choices(
        self,
        http: HttpRequest,
        prepared: PreparedRequest,
        builders: abc.Sequence[BodyBuilder],
        join: JoinBodies,
    ) -> Response:
        """Queue the request once for each builder; return all bodies, joined. Raises ClientGone."""
        return await self._whole(http, prepared.choices(len(builders)), builders, join)

    async def _whole(
        self,
        http: HttpRequest,
        choices: list[PreparedRequest],
        builders: abc.Sequence[BodyBuilder],
        join: JoinBodies,
    ) -> Response:
        answers = self._start_all(choices)
        messages = (whole_message(*pair) for pair in zip(answers, builders, strict=True))
        try:
            bodies = await while_connected(http.receive, asyncio.gather(*messages))
        finally:
            for answer in answers:
                answer.close()
        return JSONResponse(join(bodies, total_usage(answers)), headers=answers[0].headers)

    def _start_all(self, choices: list[PreparedRequest]) -> list[Answer]:
        """Queue all choices of a request or none; a request that was sent again goes on with its answers."""
        first = choices[0]
        if first.reader is not None:
            return first.reader.views()
        answers: list[Answer] = []
        try:
            for prepared in choices:
                answers.append(self.start(prepared))
        except Exception:
            for answer in answers:
                answer.close()
            raise
        return answers if first.sending is None else self._services.twins.share(first, first.sending, answers)

    def start(self, prepared: PreparedRequest) -> Answer:
        """Queue a request. What goes wrong after that ends it, since nobody would read its tokens."""
        submit = self._services.scheduler.submit
        parser = OutputParser(prepared.new_detokenizer(), prepared.answer_format)
        if prepared.is_prompt_only:
            reader = AnswerReader(PromptOnlyStream(submit(prepared.request)), parser)
        elif prepared.budget is None:
            reader = AnswerReader(submit(prepared.request), parser)
        else:
            token_stream = ResumableTokenStream(submit, prepared.request)
            reader = BudgetedReader(token_stream, parser, prepared.budget)
        try:
            return self._answer(prepared, reader)
        except BaseException:
            reader.token_stream.cancel()
            raise

    def _answer(self, prepared: PreparedRequest, reader: AnswerReader) -> Answer:
        """Return the answer to a request that is queued, and begin its report."""
        metrics = self._services.metrics
        record = RequestRecord(prepared.request, reader.token_stream, metrics, prepared.started_s)
        if prepared.report is not None:
            self._services.requests.begin(prepared.report, reader.token_stream)
        answer = SampledAnswer(reader, record, prepared.is_cut, prepared.keep, prepared.report)
        return prepared.in_rounds(answer) if prepared.in_rounds else answer
