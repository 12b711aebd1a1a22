"""Protocols of the tokenizer, the scheduler and a request's token stream, as far as the API uses them."""

from collections import abc
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from tokenizers import AddedToken

from ..engine.step import TokenLogprobs
from ..scheduler.exceptions import QueueFull
from ..scheduler.queue_forecast import Outlook
from ..scheduler.sequence import FinishReason, Request
from ..scheduler.session_drop import DroppedSession
from ..scheduler.session_report import SessionReport
from ..scheduler.stats import Stats

TemplateMessage = dict[str, Any]
"""A message as chat templates read it: role and content; some have tool_calls, tool_call_id, name or
reasoning_content."""

ToolParser = Callable[..., Any]
"""mlx-lm's parser of tool calls: `(text, tools)` to one call or a list, each with `name` and `arguments`."""


class Tokenizer(Protocol):
    """The part of mlx-lm's TokenizerWrapper that the API uses."""

    @property
    def has_tool_calling(self) -> bool:
        """Whether mlx-lm knows how the model writes tool calls."""

    @property
    def tool_call_start(self) -> str | None:
        """The tag that begins a tool call."""

    @property
    def tool_call_end(self) -> str | None:
        """The tag that ends a tool call; empty where a call lasts until the end of the answer."""

    @property
    def tool_parser(self) -> ToolParser | None:
        """mlx-lm's parser of the text between the two tags."""

    @property
    def think_start(self) -> str | None:
        """The tag that begins thoughts."""

    @property
    def think_end(self) -> str | None:
        """The tag that ends thoughts."""

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        """Tokens added to the vocabulary, by id: special tokens, and other tags."""

    def apply_chat_template(
        self, conversation: abc.Sequence[Mapping[str, Any]], /, *, tokenize: bool, **kwargs: Any
    ) -> Any:
        """Render a conversation with the model's template, to text or to token ids."""

    def encode(self, text: str, /, *, add_special_tokens: bool) -> list[int]:
        """Tokenise a text. add_special_tokens: add the tokens that begin and end a text."""

    def decode(self, token_ids: list[int], /) -> str:
        """Return the text of some tokens."""


class TokenSource(Protocol):
    """A request's tokens as they are computed: the scheduler's TokenStream, or one with a thinking budget."""

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt."""

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens found in the prefix cache: a forecast until the request is admitted."""

    @property
    def num_cached_at_arrival(self) -> int:
        """Of these, how many were found when the request was queued."""

    @property
    def num_matched_at_arrival(self) -> int:
        """Prompt tokens whose KV the prefix tree had then, with a state to go on from or without."""

    @property
    def num_disk_tokens(self) -> int:
        """How many of the cached tokens were read from disk for this request, or for one that shared them."""

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the request ended, None while it runs."""

    @property
    def arrival_s(self) -> float:
        """time.monotonic() when the request was queued."""

    @property
    def restore_s(self) -> float | None:
        """time.monotonic() when reading from disk began for the request, None where it has not."""

    @property
    def admitted_s(self) -> float | None:
        """time.monotonic() when the request first got a place in a step, None before."""

    @property
    def first_token_s(self) -> float | None:
        """time.monotonic() when the first token arrived, None before."""

    @property
    def outlook(self) -> Outlook | None:
        """How far the request is from its first token; None once it has it, or has ended."""

    @property
    def logprobs(self) -> list[TokenLogprobs]:
        """Log-probabilities of the tokens returned last; empty unless the request asks for them."""

    async def __anext__(self) -> list[int]:
        """Return new tokens, at least one. Raises StopAsyncIteration at the end, EngineFailed on failure."""

    def cancel(self) -> None:
        """End the request within one step; does nothing when it has ended."""

    def answered(self, calls: abc.Iterable[str] | None) -> None:
        """Say which tools the answer, whose request has ended, has called; None if it was broken off."""


class SchedulerInterface(Protocol):
    """The part of the scheduler's SchedulerLoop that the API uses."""

    def submit(self, request: Request) -> TokenSource:
        """Queue a request. Raises PromptTooLong, QueueFull or EngineDown."""

    def place(self) -> AbstractContextManager[None]:
        """Hold a place in the queue for a request that is being prepared. Raises QueueFull or EngineDown."""

    def sessions(self, account: str | None = None) -> Iterator[SessionReport]:
        """Yield what the sessions of one account do, or those of all, those that were used last first."""

    def is_full(self, num_more: int) -> bool:
        """Whether the queue has no room for one request after `num_more` others; False when none is taken."""

    def refuse(self) -> QueueFull:
        """Return the refusal of one request for which the queue has no room."""

    def drop_session(self, name: str, account: str | None = None) -> DroppedSession:
        """Free the KV of the session that a person means by `name`. Raises UnclearSession."""

    def stats(self) -> Stats:
        """Return a snapshot of the scheduler's state and counters."""
