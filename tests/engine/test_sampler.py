import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from pensieve.engine import sampler
from pensieve.engine.step import NOT_A_NUMBER, Adjustment, DecodeRow, SamplingParams


@pytest.fixture(autouse=True, params=["device", "host"])
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX's sampler here runs on the CPU, where `sample` would take NumPy's."""
    if request.param == "device":
        monkeypatch.setattr(sampler, "sample", sampler.sample_on_device)


def sample(logits: mx.array, rows: list[DecodeRow]) -> mx.array:
    return sampler.sample(logits, rows)


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


def test_a_row_without_filters_keeps_every_token_beside_rows_with_filters() -> None:
    """Cumulated probabilities passed 1 by rounding: beside a row with filters this one lost 0.02 %."""
    scaled = 5 * mx.random.normal((1, 152_000), key=mx.random.key(1))
    floats = mx.array([sampler._floats(SamplingParams(temperature=1.0))])
    last = sampler._last_kept(mx.sort(-scaled, axis=-1), floats, mx.zeros((1, 3), mx.uint32))
    assert last.item() == (-scaled).max().item()


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


def bits(allowed: set[int], vocab: int) -> bytes:
    return bytes(sum(((i + j) in allowed) << j for j in range(8)) for i in range(0, vocab, 8))


def one(tokens: mx.array) -> int:
    token: int = np.array(tokens).tolist()[0]
    return token


def masked(row: DecodeRow, allowed: set[int], vocab: int) -> DecodeRow:
    return row._replace(allowed=bits(allowed, vocab))


SETTINGS = [
    SamplingParams(),
    SamplingParams(temperature=1.3, seed=1),
    SamplingParams(temperature=0.9, top_k=7, seed=2),
    SamplingParams(temperature=1.0, top_p=0.7, seed=3),
    SamplingParams(temperature=2.0, min_p=0.1, top_k=200, seed=2**63),
]


def test_a_constrained_row_leaves_its_neighbours_as_they_are() -> None:
    logits = mx.random.normal((5, 301), key=mx.random.key(7))
    free = rows(*SETTINGS, position=3)
    expected = np.array(sample(logits, free)).tolist()
    for place in range(5):
        batch = [masked(row, {4, 300}, 301) if i == place else row for i, row in enumerate(free)]
        found = np.array(sample(logits, batch)).tolist()
        assert found[:place] + found[place + 1 :] == expected[:place] + expected[place + 1 :]
        assert found[place] in (4, 300)


@pytest.mark.parametrize("sampling", SETTINGS)
def test_a_token_drawn_without_the_mask_stands_if_it_is_allowed(sampling: SamplingParams) -> None:
    """What makes a step that was planned before its mask was known come to the same token."""
    for seed in range(40):
        logits = mx.random.normal((1, 100), key=mx.random.key(seed))
        row = rows(replace(sampling, seed=seed))[0]
        drawn = one(sample(logits, [row]))
        kept = set(range(seed % 3, 100, 3))
        token = one(sample(logits, [masked(row, kept, 100)]))
        assert token in kept
        assert (token == drawn) == (drawn in kept)
        assert one(sample(logits, [masked(row, {drawn}, 100)])) == drawn


def test_masked_samples_follow_the_masked_distribution() -> None:
    """Without filters, that is what the repeated draw comes to: the noise belongs to the token."""
    probabilities = [0.5, 0.3, 0.15, 0.05]
    logits = mx.array([[math.log(p) for p in probabilities]] * 4000)
    each = rows(*(SamplingParams(temperature=1.0, seed=seed) for seed in range(4000)))
    tokens = np.array(sample(logits, [masked(row, {1, 2, 3}, 4) for row in each]))
    found = np.bincount(tokens, minlength=4) / 4000
    assert np.abs(found - [0, 0.6, 0.3, 0.1]).max() < 0.04


def test_tokens_past_the_mask_are_forbidden() -> None:
    """Embeddings are often padded: logits are then wider than the vocabulary."""
    logits = mx.zeros((1, 64)) + mx.array([float(i) for i in range(64)])
    row = rows(SamplingParams())[0]
    assert sample(logits, [row._replace(allowed=b"\xff\xff\xff")]).item() == 23
    assert sample(logits, [row._replace(allowed=b"\xff" * 20)]).item() == 63


def test_a_masked_row_with_nan_is_still_told_apart() -> None:
    logits = mx.array([[0.0, math.nan, 1.0], [0.0, 1.0, 2.0]])
    batch = [masked(row, {0, 2}, 3) for row in rows(SamplingParams(), SamplingParams())]
    assert np.array(sample(logits, batch)).tolist() == [NOT_A_NUMBER, 2]


def test_a_temperature_near_zero_is_greedy() -> None:
    """Divided by it, both logits would be infinite, and the first would win."""
    logits = mx.array([[40.0, 41.0]])
    row = DecodeRow(0, 1, 0, ((0, 1),), SamplingParams(temperature=1e-38))
    assert sample(logits, [row]).tolist() == [1]
    warm = DecodeRow(1, 1, 0, ((1, 2),), SamplingParams(temperature=1.0))
    assert sample(mx.concatenate([logits, logits]), [row, warm])[0].item() == 1


def packed(*numbers: int) -> bytes:
    return np.array(numbers, np.int32).tobytes()


def adjusted_row(sampling: SamplingParams, adjustment: Adjustment, token: int | None = 0) -> DecodeRow:
    return DecodeRow(0, token, 5, ((0, 6),), sampling, adjustment=adjustment)


PENALTIES = SamplingParams(repetition_penalty=2.0, frequency_penalty=0.5, presence_penalty=1.0)
LOGITS = [4.0, 3.9, -1.0, 3.0, 3.2]


@pytest.mark.parametrize(
    ("sampling", "adjustment", "expected"),
    [
        (PENALTIES, Adjustment(), 0),
        (PENALTIES, Adjustment(packed(0, 1), packed(1, 1), packed(0, 1)), 4),
        (PENALTIES, Adjustment(prompt=packed(0, 1, 4)), 3),
        (SamplingParams(frequency_penalty=0.3), Adjustment(packed(0, 1), packed(1, 3)), 0),
        (SamplingParams(frequency_penalty=0.3), Adjustment(packed(0, 1), packed(2, 1)), 1),
        (SamplingParams(logit_bias=((2, 6.0),)), Adjustment(), 2),
        (SamplingParams(logit_bias=((0, -100.0),)), Adjustment(), 1),
        (SamplingParams(min_tokens=3), Adjustment(forbidden=(0, 1)), 4),
    ],
)
def test_adjusted_logits_choose_another_token(
    sampling: SamplingParams, adjustment: Adjustment, expected: int
) -> None:
    assert sample(mx.array([LOGITS]), [adjusted_row(sampling, adjustment)]).item() == expected


def test_a_pending_token_counts_as_if_it_were_known() -> None:
    rng, vocab = np.random.default_rng(3), 40
    for seed in range(20):
        logits = mx.array(rng.normal(size=(2, vocab)).astype(np.float32))
        pending, known = int(rng.integers(3)), (0, 1, 2)
        hot = replace(PENALTIES, temperature=1.0, seed=seed)
        counts = [1 + (token == pending) for token in known]
        free = DecodeRow(1, None, 9, ((0, 10),), SamplingParams(temperature=1.0, seed=seed))
        ahead = adjusted_row(hot, Adjustment(packed(*known), packed(1, 1, 1)), None)
        late = adjusted_row(hot, Adjustment(packed(*known), packed(*counts)))
        inputs = mx.array([pending, 5])
        found = [np.array(sampler.sample(logits, [row, free], inputs)).tolist() for row in (ahead, late)]
        assert found[0] == found[1]
        assert found[0][1] == sample(logits, [free, free])[1].item(), "the other row is left alone"


def test_a_mask_that_allows_only_forbidden_tokens_wins() -> None:
    """A complete grammar allows nothing but the answer's end, which a least length forbids."""
    row = adjusted_row(SamplingParams(min_tokens=9), Adjustment(forbidden=(2,)))
    assert sample(mx.array([LOGITS]), [row._replace(allowed=bytes([0b100]))]).item() == 2


def test_a_poisoned_random_state_changes_no_draw() -> None:
    """A compiled function that raises while it is traced leaves a tracer in MLX's random state."""

    def raises(array: mx.array) -> mx.array:
        mx.random.uniform()
        raise ValueError("while it is traced")

    before = draws([0.0, 1.0, 0.5], 100, temperature=1.0)
    try:
        with pytest.raises(ValueError, match="traced"):
            mx.compile(raises, inputs=mx.random.state, outputs=mx.random.state)(mx.array(1))
        with pytest.raises(RuntimeError):
            mx.eval(mx.random.uniform())
        assert draws([0.0, 1.0, 0.5], 100, temperature=1.0) == before
    finally:
        mx.random.seed(0)
