"""What takes the place of mlx-lm's functions, against those functions, on random models and arrays."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import bailing_hybrid, bailing_moe_linear, gated_delta, recurrent_gemma, rwkv7, ssm
from mlx_lm.models.activations import swiglu
from mlx_lm.models.cache import make_prompt_cache

from pensieve.engine.find_functions import find_functions
from pensieve.engine.recurrent import host_modules
from pensieve.engine.recurrent.convolutions import (
    Convolve,
    convolution_form,
    convolutions_on_cuda,
    sum_taps,
    sum_taps_at_once,
)
from pensieve.engine.recurrent.host_forms import gated_delta_form, lightning_form, state_space_form
from pensieve.engine.recurrent.host_modules import linear_scan_form, rwkv_form, silu_form, swiglu_form
from pensieve.engine.recurrent.host_recurrence import HostRecurrence

from ..recurrent_models import CONFIGS, VOCAB, recurrent_model
from .token_loops import distance

ROUNDING = 2e-5


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    mx.disable_compile()
    yield
    mx.enable_compile()


def draw(seed: int, *shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


@pytest.mark.parametrize("on_host", [True, False], ids=["on the host", "on a GPU"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_models_compute_the_same_with_them(kind: str, on_host: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_modules, "MIN_ELEMENTS", 1)
    model = recurrent_model(kind)
    functions = find_functions(model, on_host)
    tokens = mx.array(np.random.default_rng(0).integers(0, VOCAB, (2, 90)))

    def run() -> tuple[Any, Any]:
        caches = make_prompt_cache(model)
        logits = [model(tokens[:, first:end], cache=caches) for first, end in [(0, 70), (70, 89), (89, 90)]]
        return mx.concatenate(logits, axis=1), [cache.state for cache in caches]

    expected, states = run()
    with functions:
        found, new_states = run()
    assert distance(found, expected) < 1e-4
    assert [array.dtype for each in new_states for array in flat(each)] == [
        array.dtype for each in states for array in flat(each)
    ]
    again, _ = run()
    assert distance(again, expected) == 0, "outside of the block all is mlx-lm's again"


def flat(states: Any) -> list[mx.array]:
    if isinstance(states, list | tuple):
        return [array for each in states for array in flat(each)]
    return [states] if isinstance(states, mx.array) else []


@pytest.mark.parametrize("tokens", [1, 4, 33, 300])
@pytest.mark.parametrize("groups", [1, 2])
def test_mamba_2_in_chunks_is_that_of_mlx_lm(tokens: int, groups: int) -> None:
    form = state_space_form(HostRecurrence(2), ssm.ssm_update)
    hidden, into, read = (
        draw(0, 2, tokens, 4, 24),
        draw(1, 2, tokens, groups, 16),
        draw(2, 2, tokens, groups, 16),
    )
    arguments = (hidden, draw(3, 4), into, read, draw(4, 4), draw(5, 2, tokens, 4), draw(6, 4))
    for state in (None, draw(7, 2, 4, 24, 16)):
        expected = ssm.ssm_update(*arguments, state, (0.01, 5.0))
        for found, right in zip(form(*arguments, state, (0.01, 5.0)), expected, strict=True):
            assert distance(found, right) < ROUNDING


@pytest.mark.parametrize("theirs", [bailing_moe_linear.recurrent_gla, bailing_hybrid.recurrent_gla])
def test_lightning_attention_is_that_of_mlx_lm(theirs: Any) -> None:
    form = lightning_form(HostRecurrence(2), theirs)
    q, k, v = (draw(seed, 1, 4, 70, 16) for seed in range(3))
    slopes = -mx.array([0.9, 0.5, 0.1, 0.001])
    for state in (None, draw(3, 1, 4, 16, 16)):
        expected = theirs(q=q, k=k, v=v, g=slopes, scale=0.25, h=state)
        for found, right in zip(form(q=q, k=k, v=v, g=slopes, scale=0.25, h=state), expected, strict=True):
            assert distance(found, right) < ROUNDING


@pytest.mark.parametrize("tokens", [4, 33, 150])
def test_rwkv_7_in_chunks_is_that_of_mlx_lm(tokens: int) -> None:
    theirs: Any = rwkv7.Rwkv7TimeMixing._wkv7
    layer = SimpleNamespace(num_heads=3, head_dim=16)
    r, k, v, a = (draw(seed, 2, tokens, 3, 16) for seed in range(4))
    a = a / mx.linalg.norm(a, axis=-1, keepdims=True)
    decays = mx.exp(-0.606531 * mx.sigmoid(4 * draw(5, 2, tokens, 3, 16)))
    inputs = (r, decays, k, v, -a, a * mx.sigmoid(4 * draw(6, 2, tokens, 3, 16)))
    for state in (None, draw(7, 2, 3, 16, 16)):
        expected = theirs(layer, *inputs, state)
        form = rwkv_form(HostRecurrence(2), theirs)
        for found, right in zip(form(layer, *inputs, state), expected, strict=True):
            assert distance(found, right.reshape(found.shape)) < ROUNDING


@pytest.mark.parametrize("lower_bound", [None, -5.0])
def test_gates_that_are_shut_wide_are_those_of_mlx_lm(lower_bound: float | None) -> None:
    """Their e^-x is infinite, and a warning would be an error here."""
    queries, keys, values = (draw(seed, 1, 40, 4, 32) * 0.2 for seed in range(3))
    times, betas = (300 * draw(seed, 1, 40, 4) for seed in (3, 4))
    arguments = (queries, keys, values, times, betas, mx.zeros(4), mx.zeros(4))
    theirs = gated_delta.gated_delta_update
    found = gated_delta_form(HostRecurrence(1), theirs)(*arguments, lower_bound=lower_bound)
    expected = theirs(*arguments, lower_bound=lower_bound)
    assert max(map(distance, found, expected)) < ROUNDING


def test_linear_scans_are_those_of_mlx_lm() -> None:
    x, a = draw(0, 2, 40, 24), mx.sigmoid(draw(1, 2, 40, 24))
    for state in (None, draw(2, 2, 24)):
        expected = recurrent_gemma.rnn_scan(x, a, state)
        for found, right in zip(
            linear_scan_form(recurrent_gemma.rnn_scan)(x, a, state), expected, strict=True
        ):
            assert distance(found, right) < ROUNDING


@pytest.mark.parametrize("convolve", [sum_taps, sum_taps_at_once])
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_of_each_channel_are_those_of_mlx(bias: bool, convolve: Convolve) -> None:
    form = convolution_form(nn.Conv1d.__call__, convolve, 1)
    each = nn.Conv1d(12, 12, 4, groups=12, bias=bias)
    for x in (draw(0, 2, 30, 12), draw(1, 3, 4, 12)):
        assert distance(form(each, x), each(x)) < ROUNDING
    for other in (nn.Conv1d(12, 8, 3, bias=bias), nn.Conv1d(12, 12, 4, groups=12, padding=2)):
        assert distance(form(other, x), other(x)) == 0


def test_sums_in_half_precision_are_rounded_once() -> None:
    x, weight = draw(0, 1, 9, 8).astype(mx.bfloat16), draw(1, 8, 4, 1).astype(mx.bfloat16)
    expected = sum_taps(x.astype(mx.float32), weight.astype(mx.float32)).astype(mx.bfloat16)
    assert mx.array_equal(sum_taps_at_once(x, weight), expected)


@pytest.mark.parametrize("kind", ["nemotron_h", "recurrent_gemma"])
def test_on_cuda_no_convolution_is_left_to_mlx(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX's goes through cuDNN there, and is wrong where its input is freed while it runs."""
    model = recurrent_model(kind)
    tokens = mx.array([[3, 1, 4, 1, 5, 9]])
    expected = model(tokens, cache=make_prompt_cache(model))
    for name in ("conv1d", "conv_general"):
        monkeypatch.delattr(mx, name)
    with convolutions_on_cuda(model):
        assert distance(model(tokens, cache=make_prompt_cache(model)), expected) < 1e-4


def test_activations_are_those_of_mlx() -> None:
    x, gate = draw(0, 5000), mx.concatenate([draw(1, 4990) * 30, mx.array([-200.0, 200.0] * 5)])
    assert distance(silu_form(nn.silu)(gate), nn.silu(gate)) < 1e-6
    assert distance(swiglu_form(swiglu)(gate, x), swiglu(gate, x)) < 1e-6
    half = gate.astype(mx.bfloat16)
    assert silu_form(nn.silu)(half).dtype == mx.bfloat16


def test_while_mlx_traces_an_activation_mlx_s_own_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_modules, "MIN_ELEMENTS", 1)
    mx.enable_compile()
    x = draw(0, 10)
    assert distance(mx.compile(silu_form(mx.negative))(x), -x) == 0
