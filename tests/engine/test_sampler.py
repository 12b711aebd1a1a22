import math

import mlx.core as mx
import numpy as np
import pytest
from pensieve.engine.sampler import sample
from pensieve.engine.step import NOT_A_NUMBER, DecodeRow, SamplingParams


def rows(*settings: SamplingParams, position: int = 0) -> list[DecodeRow]:
    return [DecodeRow(i, 0, position, ((0, 1),), sampling) for i, sampling in enumerate(settings)]


def draws(logits: list[float], count: int, **settings: float) -> list[int]:
    """`count` tokens drawn from one distribution, each row with its own seed."""
    each = [SamplingParams(seed=seed, **settings) for seed in range(count)]  # type: ignore[arg-type]
    return [int(token) for token in np.array(sample(mx.array([logits] * count), rows(*each)))]


def test_temperature_zero_is_the_argmax_whatever_the_neighbours_do() -> None:
    logits = mx.random.normal((3, 50), key=mx.random.key(1))
    hot = SamplingParams(temperature=5.0, top_k=3, seed=9)
    tokens = sample(logits, rows(SamplingParams(), hot, SamplingParams()))
    assert tokens[0].item() == logits[0].argmax().item()
    assert tokens[2].item() == logits[2].argmax().item()


def test_samples_follow_the_distribution() -> None:
    probabilities = [0.5, 0.3, 0.15, 0.05]
    found = (
        np.bincount(draws([math.log(p) for p in probabilities], 4000, temperature=1.0), minlength=4) / 4000
    )
    assert np.abs(found - probabilities).max() < 0.04


def test_temperature_flattens_the_distribution() -> None:
    found = np.bincount(draws([math.log(0.8), math.log(0.2)], 4000, temperature=2.0), minlength=2) / 4000
    assert abs(found[0] - 2 / 3) < 0.04


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 1}, {0}),
        ({"top_k": 10**6}, {0, 1, 2, 3}),
        ({"top_p": 0.5}, {0}),
        ({"top_p": 0.6}, {0, 1}),
        ({"min_p": 0.2}, {0, 1, 2}),
        ({"min_p": 1.0}, {0}),
        ({"top_k": 3, "top_p": 0.55}, {0, 1}),
    ],
)
def test_filters_keep_exactly_the_likeliest_tokens(settings: dict[str, float], kept: set[int]) -> None:
    logits = [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]
    assert set(draws(logits, 600, temperature=1.0, **settings)) == kept


def test_another_position_draws_another_token() -> None:
    logits = mx.zeros((1, 1000))
    drawn = {sample(logits, rows(SamplingParams(1.0, seed=4), position=p)).item() for p in range(20)}
    assert len(drawn) > 15


def test_a_row_of_nan_is_reported_and_leaves_its_neighbours_alone() -> None:
    logits = mx.array([[0.0, 1.0], [math.nan, 1.0], [3.0, 1.0]])
    assert sample(logits, rows(*[SamplingParams()] * 3)).tolist() == [1, NOT_A_NUMBER, 0]


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": math.nan},
        {"temperature": -1.0},
        {"temperature": math.inf},
        {"top_p": 0.0},
        {"top_p": math.nan},
        {"top_k": -1},
        {"min_p": 1.5},
        {"seed": -1},
        {"seed": 2**64},
    ],
)
def test_meaningless_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        SamplingParams(**bad)  # type: ignore[arg-type]
