"""Codings of KV that are compared: rotations change nothing, elements take the bits that are counted."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from pensieve.bench.micro.coded_cache import BLOCK, CodedCache, KeyFrame, KVCoding
from pensieve.bench.micro.kv_candidates import both, candidates
from pensieve.bench.micro.kv_codings import (
    Affine,
    ByChannel,
    Coding,
    Exact,
    Fitted,
    Served,
    Symmetric,
    normal_levels,
)
from pensieve.bench.micro.kv_error import load
from pensieve.bench.micro.kv_rotation import default_block, rotation
from pensieve.bench.micro.planted_outliers import key_frames, scale_channels
from pensieve.cache.packing import Packing
from pensieve.scripts.demo_model import MODEL_FOLDER

BY_CHANNEL = (ByChannel(3, 32), ByChannel(3, 32, 8))
TOKENS = [(7 * place) % 3000 + 300 for place in range(4 * BLOCK)]


class Lost:
    """A coding that leaves nothing of the elements."""

    def bits_per_element(self, dim: int) -> float:
        return 0.0

    def restore(self, elements: mx.array) -> mx.array:
        return mx.full(elements.shape, 3.0)


@pytest.fixture(scope="module")
def model() -> Any:
    return load(MODEL_FOLDER, "float32")[0]


def attention(queries: Any, keys: Any, values: Any) -> Any:
    weights = np.exp(queries @ keys.T / 8)
    return weights / weights.sum(-1, keepdims=True) @ values


@pytest.mark.parametrize("dim", [64, 80, 96, 128])
def test_attention_to_rotated_keys_and_values_is_turned_back_once(dim: int) -> None:
    turn = rotation(dim, default_block(dim))
    np.testing.assert_allclose(turn @ turn.T, np.eye(dim), atol=1e-6)
    rng = np.random.default_rng(dim)
    queries, keys, values = rng.standard_normal((3, 40, dim))
    turned = attention(queries @ turn, keys @ turn, values @ turn)
    np.testing.assert_allclose(turned @ turn.T, attention(queries, keys, values), atol=1e-5)


def test_an_outlier_spreads_over_its_block() -> None:
    outlier = np.zeros(96, np.float32)
    outlier[40] = 8
    turned = np.abs(outlier @ rotation(96, default_block(96)))
    assert turned.max() == pytest.approx(8 / 32**0.5)
    assert np.count_nonzero(turned) == 32


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("kind", [Affine, Symmetric, Fitted])
def test_a_group_has_as_many_values_as_its_codes_can_tell_apart(kind: Any, bits: int) -> None:
    elements = mx.array(np.random.default_rng(bits).standard_normal((5, 128)).astype(np.float32))
    restored = np.array(kind(bits, 64).restore(elements)).reshape(-1, 64)
    assert max(len(np.unique(group)) for group in restored) == 2**bits


@pytest.mark.parametrize(
    ("coding", "bits"),
    [
        (Affine(3, 32), 4.0),
        (Symmetric(3, 64), 3.25),
        (Fitted(2, 64), 2.25),
        (Fitted(2, 32, scale_bits=8), 2.25),
        (ByChannel(3, 32, 8), 3.5),
    ],
)
def test_scales_count_among_the_bits(coding: Coding, bits: float) -> None:
    assert coding.bits_per_element(64) == bits


@pytest.mark.parametrize("dim", [64, 80, 128])
def test_what_is_served_counts_as_its_rows_do(dim: int) -> None:
    assert Served(4).bits_per_element(dim) == Packing(dim, 4, 2).row_bytes * 8 / dim


def test_scales_and_offsets_in_bytes_lose_little_more() -> None:
    """A mean of many deviations takes nothing of the range where a channel's tokens share an offset."""
    tokens = np.random.default_rng(3).standard_normal((1, 64, 16)) + np.linspace(-20, 20, 16)
    elements = mx.array(tokens.astype(np.float32))
    losses = [float(mx.square(each.restore(elements) - elements).mean()) for each in BY_CHANNEL]
    assert losses[0] < losses[1] < 1.2 * losses[0] < 0.05


def test_levels_are_those_of_max() -> None:
    """Max, Quantizing for Minimum Distortion, 1960, table I."""
    assert normal_levels(2)[2:] == pytest.approx((0.4528, 1.510), abs=1e-3)
    assert normal_levels(3)[4:] == pytest.approx((0.2451, 0.7560, 1.344, 2.152), abs=1e-3)


def frames(model: Any, with_means: bool = False) -> list[KeyFrame]:
    return key_frames(model, TOKENS[:BLOCK], with_means)


def logits(model: Any, coding: KVCoding, layers: list[KeyFrame]) -> Any:
    caches = [CodedCache(coding, frame) for frame in layers]
    parts = [model(mx.array([TOKENS[at : at + 2 * BLOCK]]), cache=caches)[0] for at in (0, 2 * BLOCK)]
    return np.array(mx.concatenate(parts))


def test_nothing_that_is_planted_changes_what_a_model_computes(model: Any) -> None:
    wanted = np.array(model(mx.array([TOKENS]))[0])
    means = frames(model, with_means=True)
    assert max(float(mx.abs(frame.shift).max()) for frame in means) > 1
    np.testing.assert_allclose(logits(model, both(Exact()), means), wanted, atol=0.02)
    scaled = load(MODEL_FOLDER, "float32")[0]
    scale_channels(scaled)
    np.testing.assert_allclose(logits(scaled, both(Exact()), frames(scaled)), wanted, atol=0.02)
    centred = both(Exact(), are_keys_centred=True, are_keys_balanced=True)
    np.testing.assert_allclose(logits(model, centred, means), wanted, atol=0.02)


def test_blocks_in_full_are_seen_in_full(model: Any) -> None:
    wanted = np.array(model(mx.array([TOKENS]))[0])
    layers = frames(model)
    for options in ({"newest_in_full": 4}, {"first_in_full": 4}, {"first_in_full": 2, "newest_in_full": 2}):
        np.testing.assert_allclose(logits(model, both(Lost(), **options), layers), wanted, atol=0.02)
    one_less = logits(model, both(Lost(), newest_in_full=3), layers)
    np.testing.assert_allclose(one_less[: 3 * BLOCK], wanted[: 3 * BLOCK], atol=0.02)
    assert np.abs(one_less[3 * BLOCK :] - wanted[3 * BLOCK :]).max() > 0.5


def test_every_candidate_counts_its_bits() -> None:
    bits = {name: coding.bits_per_element(64) for name, coding in candidates().items()}
    assert bits["3 fitted, a scale in 64, rotated"] == 3.25
    assert bits["k4 v2 fitted, rotated"] == 3.25
    assert all(float(name[0]) <= each <= 17 for name, each in bits.items() if name[0] in "234")
