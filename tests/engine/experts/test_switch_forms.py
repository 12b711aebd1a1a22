"""mlx-lm's mixture-of-experts layers with the kernel, its text run in C++, against the layers themselves."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.activations import SwigluOAI
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

from pensieve.engine.attention.kernels.source import Kernel
from pensieve.engine.experts import expert_pairs, expert_products, switch_forms
from pensieve.engine.experts.expert_pairs import ExpertKernels
from pensieve.engine.experts.expert_products import MAX_PAIRS
from pensieve.engine.experts.switch_forms import PROJECTIONS, lay_out_experts, switch_form, usable_experts

from ..attention.compiled import needs_compiler
from ..attention.typed_kernels import typed_launcher
from ..recurrent.token_loops import distance

Layer = Any
"""A SwitchGLU or SwitchMLP."""


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX's CPU device gathers float32 only, which CUDA's kernel does not serve."""
    monkeypatch.setattr(expert_products, "DTYPES", (mx.float32,))


def with_biases(layer: Layer) -> Layer:
    for name in PROJECTIONS[type(layer)]:
        layer[name].bias = mx.random.normal(layer[name].bias.shape, key=mx.random.key(len(name)))
    return layer


LAYERS: dict[str, Callable[[], Layer]] = {
    "gated": lambda: SwitchGLU(64, 64, 4),
    "gated, with biases": lambda: with_biases(SwitchGLU(64, 64, 4, bias=True)),
    "with another gate": lambda: with_biases(SwitchGLU(64, 64, 4, activation=SwigluOAI(), bias=True)),
    "without a gate": lambda: SwitchMLP(64, 64, 4),
    "without a gate, with biases": lambda: with_biases(SwitchMLP(64, 64, 4, bias=True)),
}


def call(layer: Layer, shape: tuple[int, ...], per_row: int = 2) -> tuple[mx.array, mx.array]:
    """Inputs and experts of random rows."""
    x = mx.random.normal((*shape, 64), key=mx.random.key(1))
    drawn = mx.random.uniform(shape=(*shape, 4), key=mx.random.key(2))
    return x, mx.argsort(drawn, axis=-1)[..., -per_row:]


class Theirs:
    """Notes whether a form has left a call to mlx-lm's layer."""

    def __init__(self, layer: Layer) -> None:
        self.num_calls = 0
        self._own = type(layer).__call__

    def __call__(self, layer: Layer, x: mx.array, indices: mx.array) -> mx.array:
        self.num_calls += 1
        out: mx.array = self._own(layer, x, indices)
        return out


def few_are(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (expert_pairs, switch_forms):
        monkeypatch.setattr(module, "MAX_PAIRS", count)


@needs_compiler
@pytest.mark.parametrize("shape", [(3, 1), (5,)], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_layers_compute_the_same_with_the_kernels(
    kind: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    few_are(8, monkeypatch)
    layer = LAYERS[kind]()
    theirs = Theirs(layer)
    x, indices = call(layer, shape)
    found = switch_form(ExpertKernels.declare(typed_launcher), theirs)(layer, x, indices)
    assert theirs.num_calls == 0
    assert distance(found, layer(x, indices)) < 2e-6
    assert found.shape == (*shape, 2, 64)


@pytest.mark.parametrize("reason", ["many pairs, odd sizes", "quantised", "odd sizes", "other precision"])
def test_what_the_kernel_does_not_serve_is_left_to_mlx_lm(reason: str) -> None:
    size = {"odd sizes": 24, "many pairs, odd sizes": 32}.get(reason, 64)
    layer = SwitchGLU(64, size, 4)
    if reason == "quantised":
        nn.quantize(layer, 32, 8)
    x, indices = call(layer, (MAX_PAIRS // 2 + 1 if reason.startswith("many") else 3,))
    if reason == "other precision":
        layer.set_dtype(mx.float16)
    theirs = Theirs(layer)
    switch_form(ExpertKernels.declare(typed_launcher), theirs)(layer, x, indices)
    assert theirs.num_calls == 1


class Model(nn.Module):
    def __init__(self, *layers: Layer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers = list(layers)


@needs_compiler
def test_kernels_are_used_if_they_compute_the_models_own_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    few_are(8, monkeypatch)
    model = Model(*(LAYERS[kind]() for kind in LAYERS))
    assert usable_experts(typed_launcher, model) is not None
    assert usable_experts(typed_launcher, Model()) is None


@needs_compiler
@pytest.mark.parametrize("wrong", ["experts", "expert_tiles"])
def test_kernels_that_compute_wrongly_are_not_used(
    wrong: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    few_are(8, monkeypatch)

    def launcher(kernel: Kernel, *more: Any) -> Any:
        right = typed_launcher(kernel, *more)
        return lambda **options: [each * 1.05 if kernel.name == wrong else each for each in right(**options)]

    found = usable_experts(launcher, Model(SwitchGLU(64, 64, 4)))
    assert found is None if wrong == "experts" else found is not None and found.many is None
    assert "compute wrongly" in caplog.text


def test_weights_that_are_views_of_a_joint_matrix_get_a_place_of_their_own() -> None:
    """Qwen3.5's checkpoints hold gate and up as one. MLX's grouped product on CUDA does not see the gaps."""
    layer = SwitchGLU(64, 64, 4)
    joint = mx.random.normal((4, 64, 64))
    layer.gate_proj.weight, layer.up_proj.weight = joint[:, :32], joint[:, 32:]
    mx.eval(layer.parameters())
    assert not np.array(layer.up_proj.weight, copy=False).flags.c_contiguous
    before = np.array(layer.up_proj.weight)
    lay_out_experts(Model(layer))
    for name in ("gate_proj", "up_proj", "down_proj"):
        assert np.array(layer[name].weight, copy=False).flags.c_contiguous
    assert np.array_equal(np.array(layer.up_proj.weight), before)
