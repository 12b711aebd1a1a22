"""Ends a model's thoughts where the client's budget for them does.

The engine need not know: the sequence is given up and a new one goes on from its tokens and the closing mark.
Its KV is in the prefix cache, so that this costs no more than a step or two.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from ...engine.step import TokenScore
from ...scheduler.loop import PromptTooLong, QueueFull
from ...scheduler.sequence import FinishReason, Request
from ..protocols import Generation
from .detokenizer import Detokenizer
from .harmony import readable
from .think_marks import ThinkMarks


@dataclass(frozen=True, slots=True)
class Budget:
    """How many tokens thoughts may take, and how they are told from the rest."""

    num_tokens: int
    marks: ThinkMarks
    closing: list[int]  # the tokens that close them
    is_open: bool  # the prompt has opened them
    new_detokenizer: Callable[[], Detokenizer]


class ThoughtWatch:
    """Follows an answer, token by token, into its thoughts and out of them. Marks may be several tokens."""

    def __init__(self, budget: Budget) -> None:
        self.is_open = budget.is_open
        self._marks = budget.marks
        self._detokenizer = readable(budget.new_detokenizer(), (budget.marks.start, budget.marks.end))
        self._text = ""  # in which the next mark may begin

    def add(self, token: int) -> None:
        """Take the next token."""
        self._text += self._detokenizer.add([token])
        while (mark := self._next_mark()) in self._text:
            self._text = self._text.partition(mark)[2]
            self.is_open = not self.is_open
        self._text = self._text[-len(mark) :]

    def _next_mark(self) -> str:
        return self._marks.end if self.is_open else self._marks.start


class BudgetedGeneration:
    """One generation to its reader, which may be two to the scheduler."""

    def __init__(self, submit: Callable[[Request], Generation], request: Request, budget: Budget) -> None:
        self._submit = submit
        self._request = request
        self._budget = budget
        self._first = self._current = submit(request)
        self._watch = ThoughtWatch(budget)
        self._num_left = budget.num_tokens
        self._sampled: list[int] = []
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
    def scores(self) -> list[TokenScore]:
        return []  # only OpenAI's routes ask for them, and those have no budget

    async def __anext__(self) -> list[int]:
        """Return new tokens; the closing mark is among them."""
        if self._is_full:
            raise StopAsyncIteration
        tokens = await self._current.__anext__()
        place = self._end_of_budget(tokens)
        kept = tokens if place is None else tokens[:place] + self._budget.closing
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
        for token in self._budget.closing:
            self._watch.add(token)
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
            return False  # thoughts that are too long are better than an answer that breaks off
        self._current.cancel()
        self._current = following
        return True
