"""Keeps an answer to its grammar: a `scheduler.constraint.Constraint` over the sampled tokens.

Thoughts and text are free, and only watched for the marks that `OutputParser` reads by. Behind the mark of a
call a grammar says what may come, up to the call's end; where the whole answer must conform to something, it
does so from the answer's beginning, or from the end of the thoughts.
"""

import logging
from collections import abc
from dataclasses import dataclass, replace

from llguidance import LLMatcher

from ..formats.tag_search import find_first, overlap
from .grammar_cache import Grammar
from .vocabulary import Vocabulary

logger = logging.getLogger(__name__)

MAX_SPACE = 4  # between a mark and its call


@dataclass(frozen=True, slots=True)
class ConstraintSpec:
    """What one request's answer must conform to.

    call: what follows when the mark of a call has been written, from the mark on; None for no calls.
    answer: what the answer is to begin with, behind the thoughts; None where text is free.
    think: the marks around thoughts, None for a model without.
    may_think: the model may open its thoughts itself, before the answer.
    """

    vocabulary: Vocabulary
    call: Grammar | None = None
    call_marks: tuple[bytes, bytes] = (b"", b"")
    answer: Grammar | None = None
    think: tuple[bytes, bytes] | None = None
    may_think: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """Where in its answer the model is.

    tail: the last bytes, as far as a mark may begin in them.
    owes: what the answer is to begin with has not begun.
    matcher: of the grammar that holds now, None while anything may come.
    frees: that grammar is left for free text where it may end.
    """

    tail: bytes = b""
    is_fresh: bool = False
    is_thinking: bool = False
    owes: bool = False
    matcher: LLMatcher | None = None
    frees: bool = False


class AnswerConstraint:
    """The constraint of one request."""

    def __init__(self, spec: ConstraintSpec, starts_thinking: bool = False) -> None:
        """starts_thinking: the prompt has opened the model's thoughts."""
        self._spec = spec
        self._starts_thinking = starts_thinking
        self._refused: set[int] = set()  # at the present position
        self._mask: bytes | None = None  # of the present position, once it was asked for
        self._state = State(is_thinking=starts_thinking, owes=spec.answer is not None)
        if spec.answer is not None and not starts_thinking:
            self._state = State(is_fresh=True, matcher=spec.answer.begin(), frees=spec.answer.frees)

    def resumed(self, tokens: abc.Sequence[int]) -> "AnswerConstraint":
        """Make the constraint of an answer that begins with `tokens`."""
        constraint = AnswerConstraint(self._spec, self._starts_thinking)
        for token in tokens:
            if not constraint.accept(token):
                constraint._give_up("what was written for the model does not conform")
        return constraint

    def mask(self) -> bytes | None:
        """Return a bit for each token that may come next; None while every token may."""
        if self._state.matcher is None and not self._refused:
            return None
        if self._mask is None:
            self._mask = self._compute_mask()
        return self._mask

    def accept(self, token: int) -> bool:
        """Take the next token; False when it may not come."""
        state = self._after(token)
        self._mask = None
        if state is None and self._spec.vocabulary.knows(token):
            self._refused.add(token)
            if self.mask() is None:  # nothing else may come either: the grammar has been given up
                state = self._after(token)
        if state is not None:
            self._state = state
            self._refused.clear()
            self._mask = None
        return state is not None

    def _compute_mask(self) -> bytes | None:
        matcher, vocabulary = self._state.matcher, self._spec.vocabulary
        mask = bytearray(vocabulary.all_tokens if matcher is None else matcher.compute_bitmask())
        for token in self._refused:
            mask[token // 8] &= ~(1 << token % 8)
        opening = self._opening_thought()
        if opening is not None:
            mask[opening // 8] |= 1 << opening % 8
        if matcher is not None and (matcher.is_error() or mask.count(0) == len(mask)):
            self._give_up(matcher.get_error())
            return None
        return bytes(mask)

    def _give_up(self, problem: str) -> None:
        """Let the rest of the answer be free: one that must be read with care is better than none."""
        logger.warning("an answer is not constrained any more: %s", problem.partition("\n")[0])
        self._state = State()
        self._refused.clear()

    def _opening_thought(self) -> int | None:
        """Return the token that opens thoughts, where the answer may still begin with them."""
        spec = self._spec
        if not self._state.is_fresh or spec.think is None or not spec.may_think:
            return None
        return spec.vocabulary.special_tokens.get(spec.think[0].decode())

    def _after(self, token: int) -> State | None:
        """Return the state behind `token`, None when it may not come."""
        state, vocabulary = self._state, self._spec.vocabulary
        if state.matcher is None:
            return self._after_free(state, token)
        if token == self._opening_thought():
            return State(is_thinking=True, owes=True)
        is_taken = vocabulary.knows(token) and state.matcher.try_consume_tokens([token])
        if state.matcher.is_error():
            self._give_up(state.matcher.get_error())
            return self._watch(self._state, vocabulary.text(token))
        if not is_taken:
            # A grammar that is complete takes no token any more, not even one that ends the answer.
            return state if state.matcher.is_stopped() and token in vocabulary.eos_ids else None
        read = state.tail + vocabulary.text(token)
        if state.frees and state.matcher.is_accepting():
            return self._freed(read)
        tail = _last(read, len(self._spec.call_marks[1]) - 1) if state.frees else b""
        return replace(state, is_fresh=False, tail=tail)

    def _after_free(self, state: State, token: int) -> State | None:
        """As `_after`, where no grammar holds."""
        spec, vocabulary = self._spec, self._spec.vocabulary
        if state.owes and token in vocabulary.eos_ids:
            return None  # the answer may not end within thoughts, before what it must hold
        mark = spec.call_marks[0]
        if (
            spec.call is not None
            and not state.is_thinking
            and token == vocabulary.special_tokens.get(mark.decode())
        ):
            return self._begin(spec.call, mark)
        return self._watch(state, vocabulary.text(token))

    def _freed(self, read: bytes) -> State:
        """Go on with free text behind the end mark, and with what of it is in the same token."""
        beyond = read.partition(self._spec.call_marks[1])[2]
        # The token is allowed; if it goes on with the mark of what is no call, that is read with care.
        return self._watch(State(), beyond) or State()

    def _watch(self, state: State, text: bytes) -> State | None:
        """Look for marks in free text, and begin what they begin."""
        spec, unread = self._spec, state.tail + text
        while True:
            marks = self._marks(state)
            found = find_first(unread, marks)
            if found is None:
                tail = _last(unread, overlap(unread, marks))
                return state if tail == state.tail else replace(state, tail=tail)
            place, mark = found
            unread = unread[place + len(mark) :]
            if not state.is_thinking and mark == spec.call_marks[0]:
                begun = unread.lstrip()[:1]
                if not begun:  # what follows will tell whether it is a call, or text that speaks of the mark
                    return replace(state, tail=mark + unread[:MAX_SPACE])
                if self._begin(spec.call, mark + begun) is not None:
                    return self._begin(spec.call, mark + unread)
                state = replace(state, tail=b"")
                continue
            state = replace(state, is_thinking=not state.is_thinking)
            if state.owes and not state.is_thinking:
                return self._begin(spec.answer, unread)

    def _marks(self, state: State) -> list[bytes]:
        """List the marks that end free text, or thoughts."""
        spec = self._spec
        if state.is_thinking:
            return [spec.think[1]] if spec.think else []
        call = [spec.call_marks[0]] if spec.call is not None else []
        return [*call, spec.think[0]] if spec.think else call

    def _begin(self, grammar: Grammar | None, text: bytes) -> State | None:
        """Begin a grammar of which `text` has been written; None when it does not begin so."""
        assert grammar is not None
        matcher, tokens = grammar.begin(), self._spec.vocabulary.spell(text)
        if matcher.try_consume_tokens(tokens) < len(tokens):
            return None
        return State(matcher=matcher, frees=grammar.frees)


def _last(text: bytes, count: int) -> bytes:
    return text[len(text) - min(count, len(text)) :]
