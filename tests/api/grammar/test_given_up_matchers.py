"""Grammars that are too much for a text: the answer goes on, free."""

import random

import pytest
from llguidance import LLParserLimits

from pensieve.api.grammar.answer_constraint import AnswerConstraint, ConstraintSpec

from .byte_model import Model, write


def test_a_matcher_that_gives_up_sets_the_answer_free(
    model: Model, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schema may compile and still be too much for some text; the answer then goes on unconstrained."""
    monkeypatch.setattr("pensieve.api.grammar.grammar_cache.LIMITS", LLParserLimits(max_lexer_states=300))
    grammar = model.grammar({"type": "string", "pattern": "^(.*a.{14}b|.*b.{15}a)$"}, tools=())
    constraint = AnswerConstraint(ConstraintSpec(model.vocabulary, answer=grammar))
    write(constraint, '"')
    rng = random.Random(1)
    for _ in range(500):
        constraint.mask()
        constraint.accept(model.vocabulary.ids_of_bytes[rng.choice(b"abc")])
    assert constraint.mask() is None
    assert "not constrained any more" in caplog.text


def test_behind_a_refusal_there_is_always_a_mask(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the grammar gives up just then: else the request would end, though only one step ahead."""
    monkeypatch.setattr("pensieve.api.grammar.grammar_cache.LIMITS", LLParserLimits(max_lexer_states=300))
    grammar = model.grammar({"type": "string", "pattern": "^(.*a.{14}b|.*b.{15}a)$"}, tools=())
    spec, num_refused = ConstraintSpec(model.vocabulary, answer=grammar), 0
    for seed in range(40):
        constraint, rng = AnswerConstraint(spec), random.Random(seed)
        write(constraint, '"')
        for _ in range(60):
            if not constraint.accept(model.vocabulary.ids_of_bytes[rng.choice(b'abc"\n')]):
                num_refused += 1
                assert constraint.mask() is not None
    assert num_refused > 0
