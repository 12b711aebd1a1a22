"""NumPy's sampler beside MLX's; what both must do is in test_sampler.py."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pensieve.engine import host_sampler, sampler
from pensieve.engine.step import SamplingParams


@given(
    logits=arrays(np.float32, st.integers(2, 60), elements=st.integers(-8, 8).map(float)),
    top_k=st.integers(0, 20),
    top_p=st.floats(0.05, 1),
    min_p=st.sampled_from([0.0, 0.1, 0.5]),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
)
def test_numpy_keeps_the_tokens_that_mlx_keeps(
    logits: Any, top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    """MLX also keeps tokens as likely as the last one; sets that reach top_p but for rounding may differ."""
    sampling = SamplingParams(temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    floats = mx.array([[temperature, top_p, min_p]])
    ranked = mx.array(-np.sort(-logits)[None]) / temperature
    last = sampler._last_kept(-ranked, floats, mx.array([[top_k, 0, 0]], mx.uint32))
    least = -float(last) * temperature
    tokens, weights = host_sampler._kept(logits, logits.max(), sampling)
    found = logits if tokens is None else logits[tokens]
    assert len(weights) == len(found)
    if abs(found.min() - least) > 1e-4:
        probabilities = np.exp(np.array(ranked[0]) - float(ranked.max()))[: top_k or None]
        before = np.cumsum(probabilities / probabilities.sum())
        assert np.abs(before - top_p).min() < 1e-5
    elif tokens is not None:
        assert sorted(found, reverse=True) == sorted(logits, reverse=True)[: len(found)]
        missed = np.setdiff1d(np.flatnonzero(logits == found.min()), tokens)
        assert not (missed < tokens[found == found.min()].max()).any(), "of equal ones the first are kept"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999999, 1 - 2**-53])
def test_a_place_never_is_that_of_a_token_without_weight(share: float) -> None:
    weights = np.zeros(5000, np.float32)
    weights[[1500, 4000]] = 0.5, 0.25
    assert host_sampler._place(weights, share) == (1500 if share < 0.5 else 4000)
