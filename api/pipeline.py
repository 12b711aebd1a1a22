"""From a checked request to its answer: prompt, queue, and the answer in the words of the route's API."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from ..scheduler.sequence import Request
from .answer import Answer
from .errors import ClientGone, prompt_too_long
from .formats.answer_format import AnswerFormat
from .formats.detokenizer import Detokenizer
from .grammar.answer_constraint import AnswerConstraint
from .output.parser import OutputParser
from .output.thinking_budget import BudgetedTokenStream, ThinkingBudget
from .prompt.prompt import Prompt
from .protocols import TokenSource
from .request_record import RequestRecord
from .schema import CountTokensRequest, GenerationRequest, MessagesRequest, sampling_params
from .services import Services
from .stream import AnswerStream, BodyBuilder, StreamWriter, until_disconnect, whole_message

MAX_SESSION_CHARS = 200


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request that is ready for the scheduler."""

    request: Request
    grammar: AnswerFormat
    new_detokenizer: Callable[[], Detokenizer]
    started_s: float  # time.monotonic() when the request came in
    budget: ThinkingBudget | None = None  # of the model's thoughts
    is_cut: bool = False  # the context leaves less room than the client has allowed


class Pipeline:
    """What all routes that generate share."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def build(self, body: CountTokensRequest) -> Prompt:
        """Build a conversation's prompt and note how long it took."""
        prompt = await self._services.prompts.build(body)
        self._services.metrics.prompt_built(prompt.template_s, prompt.tokenize_s)
        return prompt

    async def conversation(
        self, http: HttpRequest, body: MessagesRequest, started_s: float
    ) -> PreparedRequest:
        """Prepare a conversation."""
        rules = (
            await self._services.constraint_factory.rules(body) if self._services.constraint_factory else None
        )
        prompt = await self.build(body)
        grammar = AnswerFormat(
            stop_sequences=body.stop_sequences or (),
            tool_format=prompt.tool_format,
            tools=prompt.tools,
            thinking=self._services.model_format.thinking,
            starts_thinking=prompt.starts_thinking,
            one_call=body.tool_choice is not None and body.tool_choice.disable_parallel_tool_use,
            is_value=rules is not None and body.answer_schema is not None and not body.must_call,
        )
        request = self._scheduled(http, body, prompt.tokens)
        is_cut = request.max_tokens < body.max_tokens
        if rules is not None:
            rules = replace(rules, starts_thinking=prompt.starts_thinking)
            request = replace(request, constraint=AnswerConstraint(rules))
        new_detokenizer = self._services.model_format.new_message_detokenizer
        return PreparedRequest(request, grammar, new_detokenizer, started_s, prompt.budget, is_cut)

    async def raw(
        self, http: HttpRequest, body: GenerationRequest, prompt: str | list[int], started_s: float
    ) -> PreparedRequest:
        """Prepare a prompt that is taken as it is."""
        tokens = await self._services.prompts.tokens(prompt)
        grammar = AnswerFormat(stop_sequences=body.stop_sequences or ())
        new_detokenizer = self._services.model_format.new_detokenizer
        return PreparedRequest(self._scheduled(http, body, tokens), grammar, new_detokenizer, started_s)

    def stream(self, prepared: PreparedRequest, writer: StreamWriter) -> Response:
        """Answer as a stream."""
        return AnswerStream(lambda: self._start(prepared), writer, self._services.keep_alive)

    async def whole(self, http: HttpRequest, prepared: PreparedRequest, writer: BodyBuilder) -> Response:
        """Answer with one message."""
        answer = self._start(prepared)
        try:
            message = await until_disconnect(http.receive, whole_message(answer, writer))
        finally:
            answer.close()
        if message is None:
            raise ClientGone("the client closed the connection")
        return JSONResponse(message)

    def _start(self, prepared: PreparedRequest) -> Answer:
        submit = self._services.scheduler.submit
        token_stream: TokenSource = (
            submit(prepared.request)
            if prepared.budget is None
            else BudgetedTokenStream(submit, prepared.request, prepared.budget, prepared.grammar)
        )
        parser = OutputParser(prepared.new_detokenizer(), prepared.grammar)
        record = RequestRecord(prepared.request, token_stream, self._services.metrics, prepared.started_s)
        return Answer(token_stream, parser, record, prepared.is_cut)

    def _scheduled(self, http: HttpRequest, body: GenerationRequest, tokens: list[int]) -> Request:
        """Make the scheduler's request; `max_tokens` is cut to what the context leaves."""
        model = self._services.model
        room = model.max_context - len(tokens)
        if room < 1:
            raise prompt_too_long(len(tokens), model.max_context - 1)
        seed = secrets.randbits(63)
        session = http.headers.get("x-claude-code-session-id")
        return Request(
            prompt=tokens,
            sampling=sampling_params(body, model.default_sampling, model.vocab_size, seed),
            max_tokens=min(body.max_tokens, room),
            stop_token_ids=model.eos_token_ids,
            session=session[:MAX_SESSION_CHARS] if session else None,
            request_id=http.scope["state"]["request_id"],
        )
