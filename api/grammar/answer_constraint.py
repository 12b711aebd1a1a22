"""Constrains an answer to its grammar: a `scheduler.constraint.Constraint` over the sampled tokens.

Thoughts and text are free: the constraint only follows their tags, as `OutputParser` does. After a call's
start tag a grammar says which tokens may come, up to the call's end. A grammar of the whole answer holds from
the answer's beginning, or from the end of its thoughts.
"""

import logging
from collections import abc
from dataclasses import dataclass, field, replace

from llguidance import LLMatcher

from ..formats.tag_follower import AnswerTags, Mode, TagFollower
from .grammar_cache import Grammar
from .vocabulary import Vocabulary

logger = logging.getLogger(__name__)

MAX_SPACE = 4  # bytes of space kept between a start tag and its call


@dataclass(frozen=True, slots=True)
class ConstraintSpec:
    """The grammars that one request's answer must conform to.

    call: the grammar of a call from its start tag on, with the text after it; None where calls are not
    constrained, and then `tags` has no tags of calls.
    answer: the grammar that holds from the answer's beginning, after the thoughts; None where text is free.
    may_think: the model may open thoughts itself, before the answer.
    text_before: bytes of free text that may stand before an answer that must be a call.
    """

    vocabulary: Vocabulary
    call: Grammar | None = None
    answer: Grammar | None = None
    tags: AnswerTags[bytes] = field(default_factory=AnswerTags)
    may_think: bool = False
    text_before: int = 0


@dataclass(frozen=True, slots=True)
class AnswerState:
    """The state of an answer after the tokens so far.

    mode: thoughts or text, while there is no matcher.
    partial_tag: the last bytes of the answer, as far as they may begin a tag.
    at_start: the answer has not begun, so that thoughts may still come before it.
    awaits_answer: the answer that the spec requires follows the present thoughts or text.
    text_left: bytes of text that may stand before it.
    matcher: follows the grammar that holds now; None while every token may come.
    continues_as_text: free text follows where the matcher's grammar ends.
    """

    mode: Mode = Mode.TEXT
    partial_tag: bytes = b""
    at_start: bool = False
    awaits_answer: bool = False
    text_left: int = 0
    matcher: LLMatcher | None = None
    continues_as_text: bool = False


class AnswerConstraint:
    """The constraint of one request."""

    def __init__(self, spec: ConstraintSpec, starts_thinking: bool = False, begun: bytes = b"") -> None:
        """starts_thinking: the prompt has opened the model's thoughts. begun: see AnswerFormat."""
        self._spec = spec
        self._starts_thinking = starts_thinking
        self._begun = begun
        self._refused: set[int] = set()  # at the present position
        self._mask: bytes | None = None  # of the present position, once computed
        if starts_thinking or spec.text_before:
            mode = Mode.THINKING if starts_thinking else Mode.TEXT
            self._state = AnswerState(mode, begun, False, spec.answer is not None, spec.text_before)
        elif spec.answer is not None:
            state = self._begin(spec.answer, begun) or _state_in(spec.answer, spec.answer.begin())
            self._state = replace(state, at_start=True)
        else:
            self._state = AnswerState(partial_tag=begun)

    def resumed(self, tokens: abc.Sequence[int]) -> "AnswerConstraint":
        """Make the constraint of an answer that begins with `tokens`."""
        constraint = AnswerConstraint(self._spec, self._starts_thinking, self._begun)
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
        state = self._state_after(token)
        self._mask = None
        if state is None and self._spec.vocabulary.knows(token):
            self._refused.add(token)
            if self.mask() is None:  # nothing else may come either: the grammar has been given up
                state = self._state_after(token)
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
        """Stop constraining the answer: an answer that may break its grammar is better than none."""
        logger.warning("an answer is not constrained any more: %s", problem.partition("\n")[0])
        self._state = AnswerState()
        self._refused.clear()

    def _opening_thought(self) -> int | None:
        """Return the token that opens thoughts, where the answer may still begin with them."""
        spec = self._spec
        if not self._state.at_start or spec.tags.thinking is None or not spec.may_think:
            return None
        return spec.vocabulary.special_tokens.get(spec.tags.thinking[0].decode())

    def _state_after(self, token: int) -> AnswerState | None:
        """Return the state after `token`, None when the token may not come."""
        state, vocabulary = self._state, self._spec.vocabulary
        if state.matcher is None:
            return self._after_free(state, token)
        if token == self._opening_thought():
            return AnswerState(Mode.THINKING, awaits_answer=True)
        is_taken = vocabulary.knows(token) and state.matcher.try_consume_tokens([token])
        if state.matcher.is_error():
            self._give_up(state.matcher.get_error())
            return self._follow(self._state, vocabulary.text(token))
        if not is_taken:
            # A grammar that is complete takes no token any more, not even one that ends the answer.
            return state if state.matcher.is_stopped() and token in vocabulary.eos_ids else None
        if not state.continues_as_text:
            return replace(state, at_start=False)
        return self._after_call(state, state.partial_tag + vocabulary.text(token))

    def _after_free(self, state: AnswerState, token: int) -> AnswerState | None:
        """Return the state after a token of free text or thoughts, None when the token may not come."""
        spec, vocabulary = self._spec, self._spec.vocabulary
        if state.awaits_answer and token in vocabulary.eos_ids:
            return None  # the required answer must follow
        text = vocabulary.text(token)
        if state.mode is Mode.TEXT and vocabulary.is_special(token) and text in spec.tags.calls:
            return self._begin(spec.call, text)
        return self._follow(state, text)

    def _after_call(self, state: AnswerState, text: bytes) -> AnswerState:
        """Return the state after a token of a call. text: of that token and the last ones before it."""
        assert state.matcher is not None
        end = self._end_tag()
        if not state.matcher.is_accepting():
            return replace(state, at_start=False, partial_tag=_last(text, len(end) - 1))
        # The token may come even if the text after the call begins a malformed call: the parser repairs that.
        return self._follow(AnswerState(), text.partition(end)[2]) or AnswerState()

    def _end_tag(self) -> bytes:
        assert self._spec.tags.call_end is not None, "calls have tags"
        return self._spec.tags.call_end

    def _follow(self, state: AnswerState, text: bytes) -> AnswerState | None:
        """Return the state after `text` of thoughts or free text, in the grammar that a tag in it begins.

        None when the text after the tag does not conform to that grammar.
        """
        spec, follower = self._spec, TagFollower(self._spec.tags, state.mode, state.partial_tag + text)
        while True:
            free, tag = follower.take()
            if spec.text_before and state.awaits_answer and follower.mode is Mode.TEXT:
                state = replace(state, text_left=state.text_left - len(free))
                if tag is None and state.text_left <= 0:
                    return self._begin(spec.answer, follower.unread) or self._begin(spec.answer, b"")
            if tag is None:
                if (follower.mode, follower.unread) == (state.mode, state.partial_tag):
                    return state
                return replace(state, mode=follower.mode, partial_tag=follower.unread)
            follower.cross(tag)
            if follower.mode is Mode.CALL:
                first_byte = follower.unread.lstrip()[:1]
                if not first_byte:  # the next text shows whether this is a call or text that mentions the tag
                    return replace(state, mode=Mode.TEXT, partial_tag=tag + follower.unread[:MAX_SPACE])
                if self._begin(spec.call, tag + first_byte) is not None:
                    return self._begin(spec.call, tag + follower.unread)
                follower.end_call(b"")
            elif follower.mode is Mode.TEXT and state.awaits_answer and not spec.text_before:
                return self._begin(spec.answer, follower.unread)

    def _begin(self, grammar: Grammar | None, text: bytes) -> AnswerState | None:
        """Return the state in a grammar after `text`; None when no text of the grammar begins with `text`."""
        assert grammar is not None
        matcher, tokens = grammar.begin(), self._spec.vocabulary.spell(text)
        if matcher.try_consume_tokens(tokens) < len(tokens):
            return None
        return _state_in(grammar, matcher)


def _state_in(grammar: Grammar, matcher: LLMatcher) -> AnswerState:
    return AnswerState(matcher=matcher, continues_as_text=grammar.continues_as_text)


def _last(text: bytes, count: int) -> bytes:
    return text[len(text) - min(count, len(text)) :]
