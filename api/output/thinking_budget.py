"""Closes a model's thoughts when they have taken the tokens of the client's budget."""

from dataclasses import dataclass

from ..formats.output_events import OutputEvent, join_deltas
from .answer_reader import AnswerReader
from .parser import OutputParser
from .resumable_stream import ResumableTokenStream


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """How many tokens thoughts may take, and the tokens that close them."""

    num_tokens: int
    closing_tokens: tuple[int, ...]


class BudgetedReader(AnswerReader):
    """Reads an answer and closes its thoughts when their budget is spent.

    The answer's own parser tells which tokens are thoughts. A thinking tag in a call's argument opens no
    thoughts, and closing tokens written there would become part of the argument.
    """

    def __init__(
        self, token_stream: ResumableTokenStream, parser: OutputParser, budget: ThinkingBudget
    ) -> None:
        super().__init__(token_stream, parser)
        self._stream = token_stream
        self._closing_tokens = list(budget.closing_tokens)
        self._num_left = budget.num_tokens
        self._has_failed = False  # the scheduler refused to close the thoughts: they go on without a budget

    async def read(self) -> tuple[int, list[OutputEvent]]:
        """Return the number of new tokens, closing tokens included, and the events that have become certain.

        Raises what `AnswerReader.read` raises.
        """
        num_before, events = len(self.tokens), list[OutputEvent]()
        for token in await self._stream.__anext__():
            if self._exceeds_budget(token):
                # Thoughts that are too long are better than an answer that breaks off.
                self._has_failed = not self._stream.resume([*self.tokens, *self._closing_tokens])
                if not self._has_failed:
                    self.tokens += self._closing_tokens
                    events += self.parser.feed(self._closing_tokens)
                    break
            self.tokens.append(token)
            was_thought = self.parser.in_thoughts
            events += self.parser.feed([token])
            self._num_left -= was_thought and self.parser.in_thoughts
        return len(self.tokens) - num_before, join_deltas(events)

    def _exceeds_budget(self, token: int) -> bool:
        """Whether `token` is part of thoughts whose budget is spent."""
        is_spent = self._num_left <= 0 and not self._has_failed
        return is_spent and self.parser.in_thoughts and not self.parser.leaves_thoughts(token)
