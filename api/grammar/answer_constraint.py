"""Constrains an answer to its grammar.

Thoughts and text are free: the constraint only follows their tags, as `OutputParser` does. After a call's
start tag a grammar says which tokens may come, up to the call's end. A grammar of the whole answer holds from
the answer's beginning, or from the end of its thoughts.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from llguidance import LLMatcher

from ..formats.tag_follower import AnswerTags, Mode, TagFollower
from .grammar_cache import Grammar
from .token_constraint import TokenConstraint
from .vocabulary import Vocabulary

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

    def constraint(self, starts_thinking: bool, begun: bytes) -> "AnswerConstraint":
        """Make the constraint of one answer."""
        return AnswerConstraint(self, starts_thinking, begun)


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


class AnswerConstraint(TokenConstraint[AnswerState]):
    """The constraint of one request."""

    def __init__(self, spec: ConstraintSpec, starts_thinking: bool = False, begun: bytes = b"") -> None:
        """starts_thinking: the prompt has opened the model's thoughts. begun: see AnswerFormat."""
        super().__init__(spec.vocabulary, AnswerState(partial_tag=begun))
        self._spec = spec
        self._starts_thinking = starts_thinking
        self._begun = begun
        if starts_thinking or spec.text_before:
            mode = Mode.THINKING if starts_thinking else Mode.TEXT
            self._state = AnswerState(mode, begun, False, spec.answer is not None, spec.text_before)
        elif spec.answer is not None:
            state = self._begin(spec.answer, begun) or _state_in(spec.answer, spec.answer.begin())
            self._state = replace(state, at_start=True)

    def _fresh(self) -> "AnswerConstraint":
        return AnswerConstraint(self._spec, self._starts_thinking, self._begun)

    def _matcher(self) -> LLMatcher | None:
        return self._state.matcher

    def _free_state(self) -> AnswerState:
        return AnswerState()

    def _besides(self) -> Collection[int]:
        """Return the token that opens thoughts, where the answer may still begin with them."""
        spec = self._spec
        if not self._state.at_start or spec.tags.thinking is None or not spec.may_think:
            return ()
        opening = spec.vocabulary.special_tokens.get(spec.tags.thinking[0].decode())
        return () if opening is None else (opening,)

    def _state_after(self, token: int) -> AnswerState | None:
        state, vocabulary = self._state, self._spec.vocabulary
        if state.matcher is None:
            return self._after_free(state, token)
        if token in self._besides():
            return AnswerState(Mode.THINKING, awaits_answer=True)
        is_taken = self._take(state.matcher, token)
        if is_taken is None:
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
