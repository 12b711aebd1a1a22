"""A request's messages to the token ids of its prompt, off the event loop."""

import asyncio
import time
from collections import abc
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from ...engine.served_model import ServedModel
from ..config import MediaPolicy
from ..errors import InvalidRequest
from ..formats.model_format import ModelFormat
from ..formats.tool_calls.tool_format import ToolFormat, head_tools, template_tool
from ..output.thinking_budget import ThinkingBudget
from ..protocols import TemplateMessage, Tokenizer
from ..schema import CountTokensRequest
from .conversation import closing_instruction, hoist_system, system_text, template_messages
from .media import refuse_media
from .special_tokens import SpecialTokens
from .template import ChatTemplate
from .thinking import ThinkingOptions

A = TypeVar("A")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What goes to the scheduler, and what is needed to read the answer."""

    tokens: list[int]
    tool_format: ToolFormat | None  # None: no calls are expected
    tools: abc.Sequence[dict[str, Any]]  # all tools of the request, as mlx-lm's parsers want them
    starts_thinking: bool  # the template has opened the model's thoughts already
    budget: ThinkingBudget | None  # of its thoughts
    template_s: float
    tokenize_s: float


NUM_BUILDERS = 2


class PromptBuilder:
    """Renders and tokenises with the served model's template and tokenizer."""

    def __init__(
        self,
        model: ServedModel,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        model_format: ModelFormat,
        images: MediaPolicy = "note",
    ) -> None:
        self._images = images
        self._vocab_size = model.vocab_size
        self._format = model_format
        self._tokenizer = tokenizer
        self._special_tokens = SpecialTokens(tokenizer)
        self._template = template
        # Rendering holds the GIL, which answers under way need: no more than these at a time, and a burst of
        # counts not before prompts that somebody waits for.
        self._builders = ThreadPoolExecutor(NUM_BUILDERS, "prompt")
        self._counter = ThreadPoolExecutor(1, "count")

    async def build(self, request: CountTokensRequest) -> Prompt:
        """Build a request's prompt in a thread. Raises InvalidRequest, TemplateError or TemplateTooSlow."""
        return await _run(self._builders, self.build_now, request)

    async def count(self, request: CountTokensRequest) -> int:
        """Count the tokens of a request's prompt, one request at a time. Raises what `build` raises."""
        prompt = await _run(self._counter, self.build_now, request)
        return len(prompt.tokens)

    def build_now(self, request: CountTokensRequest) -> Prompt:
        """Build a request's prompt. Tokenising releases the GIL, rendering does not."""
        _check_tool_choice(request)
        if self._images == "refuse":
            refuse_media(request.messages)
        started = time.perf_counter()
        request = hoist_system(request)
        content = (system_text(request.system), _with_instruction(request), head_tools(request.tools or []))
        (system, messages, tools), separator = self._special_tokens.escape(content)
        rendered = self._template.render(system, messages, tools, _thinking(request))
        text = self._without_thinking(rendered) if _forbids_thinking(request) else rendered
        rendered_at = time.perf_counter()
        tokens = self._special_tokens.encode(text, separator)
        self._check_tokens(tokens)
        return Prompt(
            tokens=tokens,
            tool_format=self._format.tool_calls if tools and _may_call(request) else None,
            tools=[template_tool(tool) for tool in request.tools or []],
            starts_thinking=self._format.starts_thinking(text),
            budget=self._budget(request, self._format.starts_thinking(text)),
            template_s=rendered_at - started,
            tokenize_s=time.perf_counter() - rendered_at,
        )

    def _budget(self, request: CountTokensRequest, is_open: bool) -> ThinkingBudget | None:
        """Bound the thoughts as the request asks, where the model has marks around them."""
        num_tokens = request.thinking.budget_tokens if request.thinking else None
        if num_tokens is None or self._format.thinking is None:
            return None
        return ThinkingBudget(
            num_tokens, self._format.thinking, is_open, self._format.new_message_detokenizer
        )

    async def tokens(self, prompt: str | list[int]) -> list[int]:
        """Tokenise a prompt that is the whole of what the model reads: its marks are meant as such."""
        tokens = await _run(self._builders, self._encode, prompt) if isinstance(prompt, str) else prompt
        self._check_tokens(tokens)
        return tokens

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=True)

    def _check_tokens(self, tokens: list[int]) -> None:
        """Refuse ids without an embedding: MLX would read past the end of its arrays."""
        if not tokens:
            raise InvalidRequest("the prompt is empty")
        if not 0 <= min(tokens) <= max(tokens) < self._vocab_size:
            raise InvalidRequest("the prompt holds a special token that the model does not know")

    def _without_thinking(self, text: str) -> str:
        """Close the thoughts that a template without a switch has opened for the model."""
        thinking = self._format.thinking
        return text + thinking.closing if thinking and self._format.starts_thinking(text) else text


async def _run(executor: Executor, function: Callable[[A], R], argument: A) -> R:
    return await asyncio.get_running_loop().run_in_executor(executor, function, argument)


def _with_instruction(request: CountTokensRequest) -> list[TemplateMessage]:
    """Add what the request asks for in fields to what it asks for in words."""
    messages = template_messages(request)
    instruction = closing_instruction(request)
    if instruction:
        place = len(messages) - (messages[-1]["role"] == "assistant") if messages else 0
        messages.insert(place, {"role": "system", "content": instruction})
    return messages


def _check_tool_choice(request: CountTokensRequest) -> None:
    choice = request.tool_choice
    if choice is None or choice.type in ("auto", "none"):
        return
    names = {tool.name for tool in request.tools or []}
    if not names:
        raise InvalidRequest(f"tool_choice: type {choice.type!r} needs tools")
    if choice.type == "tool" and choice.name not in names:
        raise InvalidRequest("tool_choice.name: no such tool in tools")


def _thinking(request: CountTokensRequest) -> ThinkingOptions:
    wanted = request.thinking is not None and request.thinking.type != "disabled"
    effort = request.output_config.effort if request.output_config else None
    return ThinkingOptions(wanted, effort, request.thinking.budget_tokens if request.thinking else None)


def _forbids_thinking(request: CountTokensRequest) -> bool:
    """Left out is not forbidden: models that always think are better than those that cannot."""
    return request.thinking is not None and request.thinking.type == "disabled"


def _may_call(request: CountTokensRequest) -> bool:
    """With tool_choice none the tools are still shown, as the cached prefix begins with them."""
    return request.tool_choice is None or request.tool_choice.type != "none"
