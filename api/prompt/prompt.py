"""Builds prompts: renders and tokenises a request's messages, off the event loop."""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ...engine.served_model import ServedModel
from ...scheduler.exceptions import PromptTooLong
from ..answer_options import AnswerOptions
from ..config import ServerConfig
from ..context_edits import EditReport
from ..errors import InvalidRequest, prompt_too_long
from ..formats.model_format import ModelFormat
from ..formats.tool_calls.template_tools import head_tools
from ..protocols import TemplateMessage, Tokenizer
from ..reports.prompt_outline import PromptOutline, outline_of
from ..reports.recent_prompts import PromptTrace, pack
from ..schema import CountTokensRequest
from .branch_points import find_branch_points
from .cleared_context import EditedRequest, edit_context
from .client_rewrites import folder_name
from .conversation import closing_instruction, template_messages
from .exact_history import ExactHistory, FoundReply, KnownConversation, PromptPart
from .kept_replies import ReplyKeeper
from .length_estimate import check_texts
from .media import refuse_media
from .reply_places import ReplyPlaces
from .shared_head import ordered_tools, split_head
from .special_tokens import SpecialTokens
from .template import ChatTemplate

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request's prompt, and the seconds that rendering and tokenising it took."""

    tokens: list[int]
    branch_points: tuple[int, ...]  # numbers of tokens after which other prompts may go on differently
    starts_thinking: bool  # the prompt has opened the model's thoughts
    begun: str  # a mark's beginning at the prompt's end
    keeper: ReplyKeeper | None  # keeps the answers; None where they are not understood
    edits: EditReport | None  # what the request has asked to be left out; None where it has not
    template_s: float
    tokenize_s: float
    folder: str = ""  # the name of the client's folder, if the request tells it


@dataclass(frozen=True, slots=True)
class PromptCount:
    """A prompt's number of tokens, and what its request has asked to be left out; None where it has not."""

    num_tokens: int
    edits: EditReport | None


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A request's prompt as text and replies. separator: see SpecialTokens.encode. seconds: of rendering.

    source: the tools, the system prompt and the messages that were rendered.
    """

    parts: list[PromptPart]  # their offsets are branch points, see find_branch_points
    keeper: ReplyKeeper | None
    separator: str
    source: tuple[list[dict[str, Any]], list[str], list[TemplateMessage]]
    space: bytes  # see SegmentCache
    seconds: float = 0.0
    edited: EditedRequest | None = None  # what was rendered; None where its edits are not applied


NUM_RENDERERS = 2
"""Threads that render. Rendering holds the GIL, which streams need as well: so they are few."""

MAX_TOKENIZERS = 16
"""Most threads that tokenise, which releases the GIL: one a processor, as more would end all prompts late."""

PART_TOKENS = 8192  # looked at in one call, which holds the GIL


class PromptBuilder:
    """Renders and tokenises with the served model's template and tokenizer."""

    def __init__(
        self,
        model: ServedModel,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        model_format: ModelFormat,
        config: ServerConfig = ServerConfig(),  # noqa: B008  (frozen)
    ) -> None:
        self._images = config.images
        self._vocab_size = model.vocab_size
        self._max_tokens = model.max_context - 1
        self._keeps_states = model.num_state_slots > 0 or model.window is not None
        self._format = model_format
        self._tokenizer = tokenizer
        self._special_tokens = SpecialTokens(tokenizer)
        self._template = template
        self._history = ExactHistory(
            ReplyPlaces(
                lambda messages, tools, thinking: template.render("", messages, tools, thinking),
                [tokenizer.decode([token]) for token in model.eos_token_ids],
            ),
            config.history_mb * 2**20 * self._special_tokens.cuts,
            template.features.id_form,
            self._special_tokens,
        )
        self._renderers = ThreadPoolExecutor(NUM_RENDERERS, "render")
        num_tokenizers = min(max(os.cpu_count() or 1, 2), MAX_TOKENIZERS)
        self._tokenizers = ThreadPoolExecutor(num_tokenizers, "tokenize")
        # Counts have their own thread, so that a burst of counts does not delay prompts.
        self._counter = ThreadPoolExecutor(1, "count")

    async def build(
        self, request: CountTokensRequest, options: AnswerOptions, owner: bytes = b""
    ) -> tuple[Prompt, PromptTrace]:
        """Build a request's prompt in threads. owner: digest of the API key, see `owner_of`.

        Raises InvalidRequest, TemplateError or TemplateTooSlow.
        """
        rendered = await _run(self._renderers, lambda: self._render(request, options, owner))
        return await _run(self._tokenizers, lambda: self._traced(rendered))

    def _traced(self, rendered: RenderedPrompt) -> tuple[Prompt, PromptTrace]:
        prompt = self._tokenize(rendered)
        return prompt, PromptTrace(outline_of(*rendered.source), pack(prompt.tokens))

    async def count(
        self, request: CountTokensRequest, options: AnswerOptions, owner: bytes = b""
    ) -> PromptCount:
        """Count the tokens of a request's prompt, one request at a time. Raises what `build` raises.

        Of texts that are far too long for the context, the tokens are estimated.
        """
        return await _run(self._counter, lambda: self._count_now(request, options, owner))

    def _count_now(self, request: CountTokensRequest, options: AnswerOptions, owner: bytes) -> PromptCount:
        edited = self._edit(request, options, owner)
        num_tokens = self._num_tokens(edited.request, options, owner)
        return PromptCount(num_tokens, edited.report(num_tokens))

    def _num_tokens(self, request: CountTokensRequest, options: AnswerOptions, owner: bytes) -> int:
        try:
            return len(self._tokenize(self._render_all(request, options, owner)).tokens)
        except PromptTooLong as error:
            return error.num_tokens

    def _edit(self, request: CountTokensRequest, options: AnswerOptions, owner: bytes) -> EditedRequest:
        return edit_context(request, lambda request: self._num_tokens(request, options, owner))

    def build_now(self, request: CountTokensRequest, options: AnswerOptions, owner: bytes = b"") -> Prompt:
        """Build a request's prompt in this thread. Raises what `build` raises, and PromptTooLong."""
        return self._tokenize(self._render(request, options, owner))

    def _render(self, request: CountTokensRequest, options: AnswerOptions, owner: bytes) -> RenderedPrompt:
        started = time.perf_counter()
        edited = self._edit(request, options, owner)
        rendered = self._render_all(edited.request, options, owner)
        return replace(rendered, seconds=time.perf_counter() - started, edited=edited)

    def _render_all(
        self, request: CountTokensRequest, options: AnswerOptions, owner: bytes
    ) -> RenderedPrompt:
        if self._images == "refuse":
            refuse_media(request.messages)
        system, request = split_head(request)
        messages = template_messages(request)
        check_texts((system, messages, head_tools(options.tools)), self._encode, self._max_tokens)
        conversation = self._history.read(owner, system, messages, options)
        while True:
            rendered, missed = self._render_conversation(system, conversation)
            if not missed:
                return rendered
            conversation = conversation.without(missed)

    def _render_conversation(
        self, system: list[str], conversation: KnownConversation
    ) -> tuple[RenderedPrompt, tuple[FoundReply, ...]]:
        """Render a conversation. Also returns the replies for whose tokens no place was found."""
        options = conversation.options
        source = (head_tools(ordered_tools(options.tools)), system, conversation.messages)
        content = (system, _with_instruction(conversation.shown, options), source[0])
        (system, messages, tools), separator = self._special_tokens.escape(content)
        shown, answer_start = self._template.render_open(
            "\n\n".join(system), messages, tools, options.thinking, options.space
        )
        text = shown
        if options.thinking.forbidden or answer_start:  # an answer that has begun is past its thoughts
            text = self._without_thinking(text)
        keeper = None if answer_start else self._history.keeper(conversation, shown, text[len(shown) :])
        text += self._format.rest_of_mark(text) + answer_start if answer_start else ""
        points = find_branch_points(text, system, messages) if self._keeps_states else []
        parts, missed = self._history.cut(text, conversation, points)
        return RenderedPrompt(parts, keeper, separator, source, options.space), missed

    def _tokenize(self, rendered: RenderedPrompt) -> Prompt:
        started = time.perf_counter()
        _, system, messages = rendered.source
        tokens: list[int] = []
        positions: list[int] = []
        for part in rendered.parts:
            check_texts(part.text, self._encode, self._max_tokens)
            found = self._special_tokens.encode(part.text, rendered.separator, part.offsets, rendered.space)
            positions += [len(tokens) + position for position in found.positions]
            tokens += found.tokens
            tokens += part.reply
        self._check_tokens(tokens)
        return Prompt(
            tokens=tokens,
            branch_points=tuple(positions),
            starts_thinking=self._format.starts_thinking(rendered.parts[-1].text),
            begun=self._format.begun(rendered.parts[-1].text),
            keeper=rendered.keeper,
            edits=rendered.edited.report(len(tokens)) if rendered.edited else None,
            template_s=rendered.seconds,
            tokenize_s=time.perf_counter() - started,
            folder=folder_name([*system, *(message["content"] for message in messages[:1])]),
        )

    async def raw(self, prompt: str | list[int]) -> tuple[Prompt, PromptTrace]:
        """Tokenise a prompt that goes to the model as it is, special tokens in it included.

        Raises InvalidRequest for an empty prompt or an id that the model does not have.
        """
        return await _run(self._tokenizers, lambda: self._raw(prompt))

    def _raw(self, prompt: str | list[int]) -> tuple[Prompt, PromptTrace]:
        started = time.perf_counter()
        if isinstance(prompt, str):
            check_texts(prompt, self._encode, self._max_tokens)
        tokens = self._encode(prompt) if isinstance(prompt, str) else prompt
        self._check_tokens(tokens)
        built = Prompt(tokens, (), False, "", None, None, 0.0, time.perf_counter() - started)
        return built, PromptTrace(PromptOutline(), pack(tokens))

    def decode(self, tokens: list[int]) -> str:
        """Return the text of some tokens."""
        return self._tokenizer.decode(tokens)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=True)

    def _check_tokens(self, tokens: list[int]) -> None:
        """Refuse an empty prompt and ids without an embedding: MLX would read past the end of its arrays."""
        if not tokens:
            raise InvalidRequest("the prompt is empty")
        for start in range(0, len(tokens), PART_TOKENS):
            part = tokens[start : start + PART_TOKENS]
            if not 0 <= min(part) <= max(part) < self._vocab_size:
                raise InvalidRequest("the prompt holds a special token that the model does not know")

    def _without_thinking(self, text: str) -> str:
        """Close the thoughts if the rendered text has opened them, as templates without a switch do."""
        thinking = self._format.thinking
        return text + thinking.closing if thinking and self._format.starts_thinking(text) else text


async def _run(executor: Executor, function: Callable[[], R]) -> R:
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, function)
    except PromptTooLong as error:
        raise prompt_too_long(error.num_tokens, error.max_tokens) from None


def _with_instruction(messages: list[TemplateMessage], options: AnswerOptions) -> list[TemplateMessage]:
    """Add the closing instruction at the end of messages, but before an answer to continue."""
    instruction = closing_instruction(options)
    if instruction:
        place = len(messages) - (messages[-1]["role"] == "assistant") if messages else 0
        messages.insert(place, {"role": "system", "content": instruction})
    return messages
