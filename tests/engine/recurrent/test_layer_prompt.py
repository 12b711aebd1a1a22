"""The kernels of prompts in a whole gated delta layer, their text run in C++, against mlx-lm's own layers."""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import qwen3_5, qwen3_next
from mlx_lm.models.cache import ArraysCache

from pensieve.engine.attention.kernels.source import Kernel
from pensieve.engine.recurrent.layer_prompt import LayerPrompt, usable_layer_prompt

from ...budget import sampled
from ..attention.compiled import needs_compiler
from ..attention.typed_kernels import typed_launcher
from .test_layer_step import caches, distances, layer_of

pytestmark = needs_compiler

ROUNDING = {mx.float32: 5e-5, mx.bfloat16: 2e-2}
CASES = [
    (qwen3_5.GatedDeltaNet, ((128, 128), (1, 3)), mx.bfloat16, True),
    (qwen3_5.GatedDeltaNet, ((96, 40), (1, 2)), mx.float32, True),
    (qwen3_next.Qwen3NextGatedDeltaNet, ((64, 64), (2, 4)), mx.float32, False),
    (qwen3_next.Qwen3NextGatedDeltaNet, ((64, 40), (1, 3)), mx.bfloat16, True),
]
"""Class, dims and heads of keys and values, type, and whether the convolution has a bias."""


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.mark.parametrize(
    ("kind", "shape", "dtype", "has_bias"),
    sampled(CASES, kept=[CASES[2]]),
)
def test_tokens_pass_through_the_layer_as_through_mlx_lms(
    kind: Any, shape: Any, dtype: mx.Dtype, has_bias: bool
) -> None:
    mx.random.seed(0)
    layer = layer_of(kind, shape[0], shape[1], dtype)
    if has_bias:
        layer.conv1d.bias = mx.random.normal((layer.conv_dim,)).astype(dtype)
    for num_rows, num_tokens in ((1, 70), (2, 2)):
        inputs = mx.random.normal((num_rows, num_tokens, 64)).astype(dtype)
        ours, theirs = caches(layer, num_rows)
        found, expected = LayerPrompt(typed_launcher).run(layer, inputs, ours), layer(inputs, None, theirs)
        out, conv, state = distances(found, expected, ours, theirs)
        assert max(out, state) < ROUNDING[dtype]
        assert conv == 0


def test_a_prompt_cut_anywhere_leaves_the_same_states() -> None:
    layer = layer_of(qwen3_5.GatedDeltaNet, (64, 64), (1, 2), mx.float32)
    inputs, kernel = mx.random.normal((1, 67, 64)), LayerPrompt(typed_launcher)
    ours, theirs = caches(layer, 1)
    whole = kernel.run(layer, inputs, theirs)
    parts: list[Any] = [
        kernel.run(layer, inputs[:, first:end], ours) for first, end in ((0, 2), (2, 40), (40, 67))
    ]
    assert max(distances(mx.concatenate(parts, axis=1), whole, ours, theirs)) < ROUNDING[mx.float32]


def test_padding_behind_the_tokens_of_a_row_changes_nothing() -> None:
    layer = layer_of(qwen3_5.GatedDeltaNet, (64, 64), (1, 2), mx.float32)
    kernel, lengths = LayerPrompt(typed_launcher), [67, 2]
    inputs = mx.random.normal((2, 130, 64))
    ours, _ = caches(layer, 2)
    before = list(ours.cache)
    ours.prepare(lengths=lengths)
    padded = kernel.run(layer, inputs, ours)
    assert padded is not None
    for row, length in enumerate(lengths):
        alone: Any = ArraysCache(2)
        alone.cache = [array[row : row + 1] for array in before]
        found = kernel.run(layer, inputs[row : row + 1, :length], alone)
        assert found is not None
        assert float(mx.abs(padded[row, :length] - found[0]).max()) < ROUNDING[mx.float32]
        for array, kept in zip(ours.cache, alone.cache, strict=True):
            assert float(mx.abs(array[row] - kept[0]).max()) < ROUNDING[mx.float32]


def test_the_first_tokens_of_rows_find_zeros_for_their_states() -> None:
    layer = layer_of(qwen3_5.GatedDeltaNet, (64, 64), (1, 2), mx.float32)
    inputs, kernel = mx.random.normal((2, 5, 64)), LayerPrompt(typed_launcher)
    for _ in range(2):
        ours, theirs = ArraysCache(2), ArraysCache(2)
        found, expected = kernel.run(layer, inputs, ours), layer(inputs, None, theirs)
        assert max(distances(found, expected, ours, theirs)) < ROUNDING[mx.float32]


def test_layers_of_odd_heads_are_left_to_mlx_lm() -> None:
    kernel, inputs = LayerPrompt(typed_launcher), mx.zeros((1, 3, 64))
    for dims in ((40, 64), (64, 36), (64, 42)):
        layer = layer_of(qwen3_5.GatedDeltaNet, dims, (1, 2), mx.float32)
        ours, _ = caches(layer, 1)
        before = list(ours.cache)
        assert kernel.run(layer, inputs, ours) is None
        assert all(a is b for a, b in zip(before, ours.cache, strict=True))


def test_kernels_that_compute_wrongly_are_not_used(caplog: pytest.LogCaptureFixture) -> None:
    layer = layer_of(qwen3_5.GatedDeltaNet, (64, 64), (1, 2), mx.float32)
    assert usable_layer_prompt(typed_launcher, [layer]) is not None

    def wrong(kernel: Kernel, scale: float, workspace_bytes: int = 0) -> Any:
        right = typed_launcher(kernel, scale)
        return lambda **arguments: [array * np.float32(1.05) for array in right(**arguments)]

    assert usable_layer_prompt(wrong, [layer]) is None
    assert "for prompts computes wrongly" in caplog.text
