"""What a sequence tells the sampler of the tokens that it holds."""

import array

from pensieve.engine.step import Adjustment, SamplingParams
from pensieve.scheduler.seen_tokens import SeenTokens


def counted(adjustment: Adjustment | None) -> dict[int, int]:
    assert adjustment is not None
    tokens, counts = (array.array("i", part) for part in (adjustment.tokens, adjustment.counts))
    return dict(zip(tokens, counts, strict=True))


def test_the_answers_tokens_are_counted_and_the_prompts_only_for_repetition() -> None:
    seen = SeenTokens(SamplingParams(frequency_penalty=1.0), [1, 2, 2], [9])
    assert counted(seen.adjustment([1, 2, 2], 3)) == {}
    assert counted(seen.adjustment([1, 2, 2, 5, 5, 2], 6)) == {5: 2, 2: 1}
    assert counted(seen.adjustment([1, 2, 2, 5, 5, 2, 5], 8)) == {5: 3, 2: 1}
    repeated = SeenTokens(SamplingParams(repetition_penalty=1.1), [1, 2, 2], []).adjustment([1, 2, 2], 3)
    assert repeated is not None
    assert sorted(array.array("i", repeated.prompt)) == [1, 2]


def test_stop_tokens_are_forbidden_until_the_answer_is_long_enough_pending_tokens_included() -> None:
    seen = SeenTokens(SamplingParams(min_tokens=2), [1], [8, 9])
    assert [seen.adjustment([1], num_tokens) for num_tokens in (1, 2, 3)] == [
        Adjustment(forbidden=(8, 9)),
        Adjustment(forbidden=(8, 9)),
        None,
    ]


def test_a_bias_needs_no_counts() -> None:
    seen = SeenTokens(SamplingParams(logit_bias=((3, 1.0),)), [1], [9])
    assert seen.adjustment([1, 2], 2) == Adjustment()
