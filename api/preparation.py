"""Makes a validated request ready for the scheduler: reads its options, builds its prompt and constraint."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from starlette.requests import Request as HttpRequest

from ..scheduler.constraint import Constraint
from ..scheduler.sequence import Request
from .answer_options import AnswerOptions, answer_options, raw_options
from .context_edits import EditReport
from .errors import InvalidRequest, prompt_too_long
from .formats.answer_format import AnswerFormat
from .formats.detokenizer import Detokenizer
from .formats.tool_calls.template_tools import template_tool
from .generation import GenerationRequest, sampling_params
from .output.answer import Answer, KeepReply
from .output.stream import while_connected
from .output.thinking_budget import ThinkingBudget
from .prompt.prompt import Prompt
from .queue_gate import place_of
from .reports.recent_prompts import PromptTrace, Sender
from .reports.request_report import RequestFacts, RequestReport
from .request_origin import origin_of, owner_of
from .schema import MessagesRequest, RawRequest
from .services import Services
from .twins import Reader, Sending, sending_of


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request that is ready for the scheduler."""

    request: Request
    answer_format: AnswerFormat
    new_detokenizer: Callable[[], Detokenizer]
    started_s: float  # time.monotonic() when the request arrived
    budget: ThinkingBudget | None = None  # None for no bound on the model's thoughts
    is_prompt_only: bool = False  # the client wants no tokens, only the prompt in the cache
    is_cut: bool = False  # the context leaves room for fewer tokens than the client's max_tokens
    keep: KeepReply | None = None  # keeps the answer for later prompts
    in_rounds: Callable[[Answer], Answer] | None = None  # lets the answer go on after the server's tools
    edits: EditReport | None = None  # what the prompt leaves out; None where the client asks for no edits
    report: RequestReport | None = None  # None for the further choices of one request
    sending: Sending | None = None  # None where nobody may go on with the answer
    reader: "Reader[PreparedRequest] | None" = None  # of an answer under way that this request goes on with

    def choices(self, count: int) -> list["PreparedRequest"]:
        """Return the request `count` times, with seeds that follow one another; their prompt is shared."""
        request, constraint = self.request, self.request.constraint
        others = [
            replace(
                request,
                sampling=replace(request.sampling, seed=(request.sampling.seed + i) % 2**64),
                constraint=constraint and constraint.resumed([]),
            )
            for i in range(1, count)
        ]
        return [self, *(replace(self, request=other, report=None) for other in others)]


class Preparation:
    """Prepares requests, for all routes that generate."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def conversation(
        self, http: HttpRequest, body: MessagesRequest, started_s: float, logprobs: int | None = None
    ) -> PreparedRequest:
        """Prepare a conversation: compile its constraint and build its prompt.

        logprobs: likeliest tokens to score beside each sampled token; None asks for no log-probabilities.
        Raises InvalidRequest, ClientGone, QueueFull or EngineDown.
        """
        sending = await sending_of(http, started_s)
        if (again := self._going_on(sending)) is not None:
            return again
        with place_of(http, self._services.scheduler):
            prepared = await while_connected(http.receive, self._build(http, body, started_s, logprobs))
        return replace(prepared, sending=sending)

    async def later_round(self, http: HttpRequest, body: MessagesRequest) -> PreparedRequest:
        """Prepare the conversation with which an answer goes on, whoever reads the answer by now.

        Raises InvalidRequest, QueueFull or EngineDown.
        """
        with self._services.scheduler.place():
            return await self._build(http, body, time.monotonic(), None)

    def _going_on(self, sending: Sending) -> PreparedRequest | None:
        """Return the request that a client sends again, if its answer is under way."""
        reader = self._services.twins.find(sending)
        return None if reader is None else replace(reader.prepared, sending=sending, reader=reader)

    async def _build(
        self, http: HttpRequest, body: MessagesRequest, started_s: float, logprobs: int | None
    ) -> PreparedRequest:
        model_format, space = self._services.model_format, http.scope["state"]["account"].space
        options = replace(answer_options(body, self._services.thinking), space=space)
        prompt, trace, constraint = await self._prompt_of(body, options, owner_of(http))
        self._services.metrics.prompt_built(prompt.template_s, prompt.tokenize_s)
        answer_format = AnswerFormat(
            stop_sequences=options.stop_sequences,
            tool_format=model_format.tool_calls if options.may_call else None,
            tools=[template_tool(tool) for tool in options.tools],
            thinking=model_format.thinking,
            silent=model_format.silent,
            wrap=model_format.wrap,
            begun=prompt.begun,
            starts_thinking=prompt.starts_thinking,
            one_call=options.one_call,
            is_value=constraint is not None and options.is_value and not options.must_call,
            untagged=options.untagged_names,
        )
        request = self._request(http, body, prompt.tokens, logprobs, constraint)
        origin = replace(request.origin, folder=prompt.folder)
        request = replace(request, checkpoints=prompt.branch_points, origin=origin)
        return PreparedRequest(
            request,
            answer_format,
            partial(model_format.new_message_detokenizer, in_text=options.continues_answer),
            started_s,
            budget=self._thinking_budget(options),
            is_prompt_only=body.max_tokens == 0,
            is_cut=request.max_tokens < body.max_tokens,
            keep=prompt.keeper.keep if prompt.keeper else None,
            edits=prompt.edits,
            report=_report(http, request, started_s, prompt, trace),
        )

    async def raw(
        self,
        http: HttpRequest,
        body: RawRequest,
        prompt: str | list[int],
        started_s: float,
        logprobs: int | None = None,
    ) -> PreparedRequest:
        """Prepare a prompt that goes to the model as it is, without a chat template.

        logprobs: as in `conversation`. Raises what that raises.
        """
        sending = await sending_of(http, started_s)
        if (again := self._going_on(sending)) is not None:
            return again
        options = replace(raw_options(body.output_format), space=http.scope["state"]["account"].space)
        with place_of(http, self._services.scheduler):
            built, trace = await while_connected(http.receive, self._services.prompts.raw(prompt))
            constraint = await self._constraint(options, built.tokens)
        answer_format = AnswerFormat(stop_sequences=body.stop_sequences or ())
        request = self._request(http, body, built.tokens, logprobs, constraint)
        return PreparedRequest(
            request,
            answer_format,
            self._services.model_format.new_detokenizer,
            started_s,
            is_prompt_only=body.max_tokens == 0,
            report=_report(http, request, started_s, built, trace),
            sending=sending,
        )

    async def _prompt_of(
        self, body: MessagesRequest, options: AnswerOptions, owner: bytes
    ) -> tuple[Prompt, PromptTrace, Constraint | None]:
        prompt, trace = await self._services.prompts.build(body, options, owner)
        begun = prompt.starts_thinking, prompt.begun
        return prompt, trace, await self._constraint(options, prompt.tokens, *begun)

    async def _constraint(
        self, options: AnswerOptions, prompt: list[int], starts_thinking: bool = False, begun: str = ""
    ) -> Constraint | None:
        """Compile the grammars of an answer; None where nothing constrains it. Raises InvalidRequest.

        The prompt's length is checked before, since compiling may take seconds.
        """
        self._check_length(prompt)
        factory = self._services.constraint_factory
        if factory is None and options.answer_rule is not None:
            raise InvalidRequest(f"{options.answer_rule.kind}: this model's answers cannot be constrained")
        spec = await factory.spec(options) if factory else None
        return spec.constraint(starts_thinking, begun.encode()) if spec else None

    def _thinking_budget(self, options: AnswerOptions) -> ThinkingBudget | None:
        """Return the request's thinking budget; None without one, or where the model has no thinking tags."""
        num_tokens, tags = options.thinking.num_tokens, self._services.model_format.thinking
        if num_tokens is None or tags is None:
            return None
        return ThinkingBudget(num_tokens, tags.closing_tokens)

    def _check_length(self, tokens: list[int]) -> int:
        """Return the number of tokens that an answer may have. Raises InvalidRequest where it is none."""
        room = self._services.model.max_context - len(tokens)
        if room < 1:
            raise prompt_too_long(len(tokens), self._services.model.max_context - 1)
        return room

    def _request(
        self,
        http: HttpRequest,
        body: GenerationRequest,
        tokens: list[int],
        logprobs: int | None,
        constraint: Constraint | None = None,
    ) -> Request:
        """Make the scheduler's request, with `max_tokens` cut to the room that the context leaves.

        Raises InvalidRequest for a prompt that leaves no room.
        """
        model = self._services.model
        room = self._check_length(tokens)
        named = [*(body.logit_bias or ()), *(body.stop_token_ids or ())]
        if max(named, default=0) >= model.vocab_size:
            raise InvalidRequest("logit_bias, stop_token_ids: the model has no such token")
        seed, state = secrets.randbits(63), http.scope["state"]
        address = http.client.host if http.client is not None else ""
        origin = origin_of(http.headers, body.user_id, owner_of(http), address)
        # An answer with a constraint ends where its grammar is complete.
        stop_ids = frozenset() if body.ignore_eos and constraint is None else model.eos_token_ids
        return Request(
            prompt=tokens,
            sampling=sampling_params(body, model.default_sampling, model.vocab_size, seed, logprobs),
            max_tokens=min(max(body.max_tokens, 1), room),
            stop_token_ids=stop_ids | set(body.stop_token_ids or ()),
            origin=replace(origin, account=state["account"]),
            constraint=constraint,
            request_id=state["request_id"],
        )


def _report(
    http: HttpRequest, request: Request, started_s: float, prompt: Prompt, trace: PromptTrace
) -> RequestReport:
    sender = Sender(http.scope["state"]["key"], request.origin.session, request.origin.agent)
    times = started_s, prompt.template_s, prompt.tokenize_s
    return RequestReport(RequestFacts(request.request_id, http.scope["path"], sender, *times), trace)
