"""What all constraints share: a `scheduler.constraint.Constraint` over the sampled tokens of an answer."""

import logging
from abc import ABC, abstractmethod
from collections import abc
from collections.abc import Collection
from typing import Generic, Self, TypeVar

from llguidance import LLMatcher

from .vocabulary import Vocabulary

State = TypeVar("State")

logger = logging.getLogger(__name__)


class TokenConstraint(ABC, Generic[State]):
    """Holds the state of an answer after the tokens so far; a grammar's matcher says what may come next.

    A subclass decides which grammar holds where.
    """

    def __init__(self, vocabulary: Vocabulary, state: State) -> None:
        self._vocabulary = vocabulary
        self._state = state
        self._refused: set[int] = set()  # at the present position
        self._mask: bytes | None = None  # of the present position, once computed

    def resumed(self, tokens: abc.Sequence[int]) -> Self:
        """Make the constraint of an answer that begins with `tokens`."""
        constraint = self._fresh()
        for token in tokens:
            if not constraint.accept(token):
                constraint._give_up("what was written for the model does not conform")
        return constraint

    def mask(self) -> bytes | None:
        """Return a bit for each token that may come next; None while every token may."""
        if self._matcher() is None and not self._refused:
            return None
        if self._mask is None:
            self._mask = self._compute_mask()
        return self._mask

    def accept(self, token: int) -> bool:
        """Take the next token; False when it may not come."""
        state = self._state_after(token)
        self._mask = None
        if state is None and self._vocabulary.knows(token):
            self._refused.add(token)
            if self.mask() is None:  # nothing else may come either: the grammar has been given up
                state = self._state_after(token)
        if state is not None:
            self._state = state
            self._refused.clear()
            self._mask = None
        return state is not None

    @abstractmethod
    def _fresh(self) -> Self:
        """Make the constraint of the same answer before its first token."""

    @abstractmethod
    def _matcher(self) -> LLMatcher | None:
        """Return the matcher of the grammar that holds now; None while every token may come."""

    @abstractmethod
    def _free_state(self) -> State:
        """Return the state of an answer whose grammar was given up."""

    @abstractmethod
    def _besides(self) -> Collection[int]:
        """Return tokens that may come beside those of the grammar that holds now."""

    @abstractmethod
    def _state_after(self, token: int) -> State | None:
        """Return the state after `token`, None when the token may not come."""

    def _take(self, matcher: LLMatcher, token: int) -> bool | None:
        """Let a matcher take a token. False: it may not come. None: the grammar has been given up."""
        is_taken = self._vocabulary.knows(token) and matcher.try_consume_tokens([token])
        if matcher.is_error():
            self._give_up(matcher.get_error())
            return None
        return bool(is_taken)

    def _compute_mask(self) -> bytes | None:
        matcher = self._matcher()
        mask = bytearray(self._vocabulary.all_tokens if matcher is None else matcher.compute_bitmask())
        for token in self._refused:
            mask[token // 8] &= ~(1 << token % 8)
        for token in self._besides():
            mask[token // 8] |= 1 << token % 8
        if matcher is not None and (matcher.is_error() or mask.count(0) == len(mask)):
            self._give_up(matcher.get_error())
            return None
        return bytes(mask)

    def _give_up(self, problem: str) -> None:
        """Stop constraining the answer: an answer that may break its grammar is better than none."""
        logger.warning("an answer is not constrained any more: %s", problem.partition("\n")[0])
        self._state = self._free_state()
        self._refused.clear()
