"""Constrains an answer in messages, as gpt-oss writes them: headers, the arguments of calls, and values.

A header names the kind of its message. Thoughts and words for the user are free up to the message's end; a
call's arguments and a value follow their grammars, and end the answer.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum

from llguidance import LLMatcher

from ..formats.harmony import CALL, END, MESSAGE, START
from .grammar_cache import Grammar
from .token_constraint import TokenConstraint
from .vocabulary import Vocabulary

RECIPIENT, FINAL = b"to=", b"final"


@dataclass(frozen=True, slots=True)
class MessageSpec:
    """The grammars of one request's answer.

    head: of a message's header, and of a whole call. value: of the last message; None where it is free text.
    must_end_so: the answer must end with a call or a value.
    in_words: the prompt ends within a message's text, not with the beginning of a header.
    """

    vocabulary: Vocabulary
    head: Grammar
    value: Grammar | None = None
    must_end_so: bool = False
    in_words: bool = False

    def constraint(self, starts_thinking: bool, _begun: bytes) -> "MessageConstraint":
        """Make the constraint of one answer. starts_thinking: the prompt ends within thoughts."""
        return MessageConstraint(replace(self, in_words=True) if starts_thinking else self)


class MessagePart(Enum):
    """The part of a message that the next token belongs to."""

    HEADER = "header"
    WORDS = "words"  # thoughts, or text for the user
    BOUND = "bound"  # a call's arguments, or a value
    FREE = "free"  # the rest of an answer whose grammar was given up


@dataclass(frozen=True, slots=True)
class MessageState:
    """The state of an answer after the tokens so far.

    matcher: None within words. header: the bytes of the present header.
    """

    part: MessagePart
    matcher: LLMatcher | None = None
    header: bytes = b""


class MessageConstraint(TokenConstraint[MessageState]):
    """The constraint of one request."""

    def __init__(self, spec: MessageSpec) -> None:
        self._spec = spec
        start = MessageState(MessagePart.WORDS) if spec.in_words else self._new_message()
        super().__init__(spec.vocabulary, start)
        marks = spec.vocabulary.special_tokens
        self._ends = {marks[mark] for mark in (START, END, CALL) if mark in marks}
        self._start = marks.get(START)

    def _fresh(self) -> "MessageConstraint":
        return MessageConstraint(self._spec)

    def _matcher(self) -> LLMatcher | None:
        return self._state.matcher

    def _free_state(self) -> MessageState:
        return MessageState(MessagePart.FREE)

    def _new_message(self) -> MessageState:
        return MessageState(MessagePart.HEADER, self._spec.head.begin())

    def _besides(self) -> Collection[int]:
        """Return the tokens that end the answer, where it may end between two messages."""
        is_between = self._state.part is MessagePart.HEADER and not self._state.header
        return self._vocabulary.eos_ids if is_between and not self._spec.must_end_so else ()

    def _state_after(self, token: int) -> MessageState | None:
        state = self._state
        if state.matcher is None:
            return self._after_words(state, token)
        if token in self._besides():
            return state
        is_taken = self._take(state.matcher, token)
        if is_taken is None:
            return self._state
        if not is_taken:
            # A grammar that is complete takes no token any more, not even one that ends the answer.
            is_over = state.matcher.is_stopped() and token in self._vocabulary.eos_ids
            return state if is_over else None
        return self._after_header(state, token) if state.part is MessagePart.HEADER else state

    def _after_words(self, state: MessageState, token: int) -> MessageState | None:
        """Return the state after a token of words, None when the token may not come."""
        is_end = token in self._vocabulary.eos_ids
        if state.part is MessagePart.FREE:
            return state
        if is_end:  # of the answer, as a call's mark is in words too
            return None if self._spec.must_end_so else state
        if token in self._ends:
            message = self._new_message()
            assert message.matcher is not None, "a header has a grammar"
            if token == self._start:
                message.matcher.try_consume_tokens([token])
                return MessageState(MessagePart.HEADER, message.matcher, START.encode())
            return message
        return state

    def _after_header(self, state: MessageState, token: int) -> MessageState:
        """Return the state after a token of a header, which its grammar has taken."""
        header = state.header + self._vocabulary.text(token)
        if not header.endswith(MESSAGE.encode()):
            return MessageState(MessagePart.HEADER, state.matcher, header)
        if RECIPIENT in header:
            return MessageState(MessagePart.BOUND, state.matcher)
        if FINAL in header and self._spec.value is not None:
            return MessageState(MessagePart.BOUND, self._spec.value.begin())
        return MessageState(MessagePart.WORDS)
