"""Ends a model's thoughts where the client's budget for them does.

The engine need not know: the sequence is given up and a new one goes on from its tokens and the closing mark.
Its KV is in the prefix cache, so that this costs no more than a step or two.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from ...engine.step import TokenLogprobs
from ...scheduler.exceptions import PromptTooLong, QueueFull
from ...scheduler.sequence import FinishReason, Request
from ..formats.answer_format import AnswerFormat
from ..formats.detokenizer import Detokenizer
from ..formats.thinking_tags import ThinkingTags
from ..protocols import TokenSource
from .parser import OutputParser


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """How many tokens thoughts may take, and how they are told from the rest."""

    num_tokens: int
    tags: ThinkingTags
    is_open: bool  # the prompt has opened them
    new_detokenizer: Callable[[], Detokenizer]


class ThoughtWatch:
    """Follows an answer, token by token, into its thoughts and out of them.

    It reads as the answer's own parser does: a think mark in a call's argument opens no thoughts. What
    was written to close those would become a part of the argument.
    """

    def __init__(self, budget: ThinkingBudget, grammar: AnswerFormat) -> None:
        grammar = replace(grammar, thinking=budget.tags, starts_thinking=budget.is_open)
        self._parser = OutputParser(budget.new_detokenizer(), grammar)

    @property
    def is_open(self) -> bool:
        """Whether the next token belongs to thoughts."""
        return self._parser.in_thoughts

    def add(self, token: int) -> None:
        """Take the next token."""
        self._parser.feed([token])


class BudgetedTokenStream:
    """One generation to its reader, which may be two to the scheduler."""

    def __init__(
        self,
        submit: Callable[[Request], TokenSource],
        request: Request,
        budget: ThinkingBudget,
        grammar: AnswerFormat = AnswerFormat(),  # noqa: B008  (frozen)
    ) -> None:
        """grammar: what can occur in the answer beside thoughts."""
        self._submit = submit
        self._request = request
        self._budget = budget
        self._first = self._current = submit(request)
        self._watch = ThoughtWatch(budget, grammar)
        self._num_left = budget.num_tokens
        self._sampled: list[int] = []
        self._has_failed = False  # to close the thoughts: they go on, and nothing is counted any more
        self._is_full = False  # the closing mark took the last tokens that were allowed

    @property
    def num_prompt_tokens(self) -> int:
        return self._first.num_prompt_tokens

    @property
    def num_cached_tokens(self) -> int:
        return self._first.num_cached_tokens

    @property
    def finish_reason(self) -> FinishReason | None:
        return "length" if self._is_full else self._current.finish_reason

    @property
    def arrival_s(self) -> float:
        return self._first.arrival_s

    @property
    def admitted_s(self) -> float | None:
        return self._first.admitted_s

    @property
    def first_token_s(self) -> float | None:
        return self._first.first_token_s

    @property
    def logprobs(self) -> list[TokenLogprobs]:
        return []  # only OpenAI's routes ask for them, and those have no budget

    async def __anext__(self) -> list[int]:
        """Return new tokens; the closing mark is among them."""
        if self._is_full:
            raise StopAsyncIteration
        tokens = await self._current.__anext__()
        place = self._end_of_budget(tokens)
        kept = tokens if place is None else [*tokens[:place], *self._budget.tags.closing_tokens]
        if place is None or not self._go_on_from(kept):
            self._sampled += tokens
            return tokens
        self._sampled += kept
        return kept

    def cancel(self) -> None:
        """End it within one step; harmless when it has ended."""
        self._current.cancel()

    def _end_of_budget(self, tokens: list[int]) -> int | None:
        """Count thoughts; return the place of the first token beyond the budget, None while it lasts."""
        if self._has_failed:
            return None
        for place, token in enumerate(tokens):
            was_open = self._watch.is_open
            self._watch.add(token)
            if was_open and self._watch.is_open:
                if not self._num_left:
                    return place
                self._num_left -= 1
        return None

    def _go_on_from(self, kept: list[int]) -> bool:
        """Begin anew behind what was sampled and `kept`; false when there is no place for it in the queue."""
        sampled = [*self._sampled, *kept]
        room = self._request.max_tokens - len(sampled)
        if room < 1:
            self._is_full = True
            self._current.cancel()
            return True
        constraint = self._request.constraint
        request = replace(
            self._request,
            prompt=[*self._request.prompt, *sampled],
            max_tokens=room,
            constraint=constraint and constraint.resumed(sampled),
        )
        try:
            following = self._submit(request)
        except (QueueFull, PromptTooLong):
            self._has_failed = True
            return False  # thoughts that are too long are better than an answer that breaks off
        for token in self._budget.tags.closing_tokens:
            self._watch.add(token)
        self._current.cancel()
        self._current = following
        return True
