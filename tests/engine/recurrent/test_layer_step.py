"""The kernel of a whole gated delta layer, its text run in C++, against mlx-lm's own layers."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import qwen3_5, qwen3_next
from mlx_lm.models.cache import ArraysCache

from pensieve.engine.attention.kernels.source import Kernel
from pensieve.engine.joint_projections import join_projections
from pensieve.engine.recurrent.layer_check import usable_layer_step
from pensieve.engine.recurrent.layer_step import (
    LAYERS,
    LayerStep,
    layer_form,
    step_constants,
)

from ...budget import sampled
from ..attention.compiled import needs_compiler
from ..attention.cpp_kernels import CppKernels
from ..attention.typed_kernels import TypedLauncher, typed_launcher
from .token_loops import distance

pytestmark = needs_compiler

ROUNDING = {mx.float32: 3e-6, mx.bfloat16: 2e-2}
CASES = [
    (qwen3_5.GatedDeltaNet, ((128, 128), (1, 3)), mx.bfloat16, True),
    (qwen3_5.GatedDeltaNet, ((96, 40), (1, 2)), mx.float32, True),
    (qwen3_5.GatedDeltaNet, ((192, 128), (2, 2)), mx.float32, False),
    (qwen3_next.Qwen3NextGatedDeltaNet, ((64, 64), (2, 4)), mx.float32, False),
    (qwen3_next.Qwen3NextGatedDeltaNet, ((128, 128), (2, 4)), mx.bfloat16, False),
    (qwen3_next.Qwen3NextGatedDeltaNet, ((64, 40), (1, 3)), mx.bfloat16, True),
]
"""Class, dims and heads of keys and values, type, and whether the convolution has a bias."""


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """Let MLX compile nothing on the CPU, which takes seconds."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def layer_of(kind: Any, dims: tuple[int, int], heads: tuple[int, int], dtype: mx.Dtype) -> Any:
    """A layer of random weights. dims: of keys and values. heads: of keys and values."""
    config = SimpleNamespace(hidden_size=64, rms_norm_eps=1e-6, linear_conv_kernel_dim=4)
    config.linear_key_head_dim, config.linear_value_head_dim = dims
    config.linear_num_key_heads, config.linear_num_value_heads = heads
    layer = kind(config)
    drawn = {"conv1d.weight": (layer.conv_dim, 4, 1), "dt_bias": heads[1:], "norm.weight": dims[1:]}
    layer.load_weights([(name, mx.random.normal(shape)) for name, shape in drawn.items()], strict=False)
    log_rates = layer.A_log
    layer.set_dtype(dtype)
    layer.A_log = log_rates
    layer.eval()
    return layer


def caches(layer: Any, num_rows: int) -> tuple[Any, Any]:
    """Two caches of the same random state."""
    dtype, sizes = layer.conv1d.weight.dtype, (layer.num_v_heads, layer.head_v_dim, layer.head_k_dim)
    conv = mx.random.normal((num_rows, 3, layer.conv_dim)).astype(dtype)
    state = mx.random.normal((num_rows, *sizes))
    pair = ArraysCache(2), ArraysCache(2)
    for cache in pair:
        cache[0], cache[1] = conv, state
    return pair


def distances(found: Any, expected: Any, ours: Any, theirs: Any) -> list[float]:
    """Of the output, the convolution's state and the state."""
    pairs = [(found, expected), *zip(ours.cache, theirs.cache, strict=True)]
    return [distance(a.astype(mx.float32), b.astype(mx.float32)) for a, b in pairs]


@pytest.mark.parametrize(
    ("kind", "shape", "dtype", "has_bias"),
    sampled(CASES, kept=[CASES[0], CASES[3]]),
)
def test_rows_pass_through_the_layer_as_through_mlx_lms(
    kind: Any, shape: Any, dtype: mx.Dtype, has_bias: bool
) -> None:
    mx.random.seed(0)
    layer = layer_of(kind, shape[0], shape[1], dtype)
    if has_bias:
        layer.conv1d.bias = mx.random.normal((layer.conv_dim,)).astype(dtype)
    launcher = TypedLauncher(watched=True)
    for num_rows in (1, 3):
        inputs = mx.random.normal((num_rows, 1, 64)).astype(dtype)
        ours, theirs = caches(layer, num_rows)
        found, expected = LayerStep(launcher).run(layer, inputs, ours), layer(inputs, None, theirs)
        out, conv, state = distances(found, expected, ours, theirs)
        assert max(out, state) < ROUNDING[dtype]
        assert conv == 0
    assert launcher.races == 0


def test_weights_in_float32_beside_half_precision_keep_their_digits() -> None:
    """As mlx-lm does: it adds a bias of float32 to the times in float32, and multiplies by such factors."""
    layer = layer_of(qwen3_5.GatedDeltaNet, (64, 64), (1, 2), mx.bfloat16)
    layer.dt_bias, layer.norm.weight = mx.random.normal((2,)), mx.random.normal((64,))
    inputs, (ours, theirs) = mx.random.normal((2, 1, 64)).astype(mx.bfloat16), caches(layer, 2)
    found, expected = LayerStep(typed_launcher).run(layer, inputs, ours), layer(inputs, None, theirs)
    assert max(distances(found, expected, ours, theirs)) < ROUNDING[mx.bfloat16]
    assert {"WIDE_TIMES": 1, "WIDE_NORM": 1}.items() <= step_constants(layer).items()


@pytest.mark.parametrize("kind", [qwen3_5.GatedDeltaNet, qwen3_next.Qwen3NextGatedDeltaNet])
def test_joint_projections_are_read_where_they_are(kind: Any) -> None:
    layer, names = layer_of(kind, (64, 64), (2, 4), mx.float32), LAYERS[kind.__module__, kind.__name__]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.layer = layer

        def __call__(self, tokens: mx.array) -> mx.array:
            found: mx.array = layer(mx.zeros((1, 1, 64)))
            return found

    assert join_projections(Model(), names) == 1
    inputs, (ours, theirs) = mx.random.normal((2, 1, 64)), caches(layer, 2)
    found, expected = LayerStep(CppKernels().launcher).run(layer, inputs, ours), layer(inputs, None, theirs)
    assert max(distances(found, expected, ours, theirs)) < ROUNDING[mx.float32]
    assert layer[names[0]]._joint.is_complete


def test_what_is_no_single_token_with_a_state_is_left_to_mlx_lm() -> None:
    class Refusing:
        def run(self, *_: Any) -> None:
            return None

    refusing: Any = Refusing()
    calls: list[tuple[Any, ...]] = []
    call = layer_form(refusing, refusing, lambda *arguments: calls.append(arguments))
    for length, mask in ((2, None), (1, mx.ones((1, 1))), (1, None)):
        call(None, mx.zeros((1, length, 64)), mask, None)
    assert len(calls) == 3
    layer = layer_of(qwen3_5.GatedDeltaNet, (64, 64), (1, 2), mx.float32)
    kernel, inputs = LayerStep(CppKernels().launcher), mx.zeros((1, 1, 64))
    assert kernel.run(layer, inputs, None) is None
    assert kernel.run(layer, inputs, ArraysCache(2)) is None
    ours, _ = caches(layer, 1)
    layer.sharding_group = object()
    assert kernel.run(layer, inputs, ours) is None


def test_half_precision_is_computed_in_slots_as_well() -> None:
    """Also where rates are in half precision, and a model that was never told that it is not in training."""
    layer = layer_of(qwen3_5.GatedDeltaNet, (64, 64), (1, 2), mx.bfloat16)
    layer.A_log = layer.A_log.astype(mx.bfloat16)
    layer.train()
    launcher = TypedLauncher(watched=True)
    found = usable_layer_step(launcher, [layer])
    assert found is not None
    assert found.serves_slots
    assert launcher.races == 0


@pytest.mark.parametrize("wrong", ["layer_step", "slot_step"])
def test_a_kernel_that_computes_wrongly_is_not_used(wrong: str) -> None:
    """Where it fails with states in slots alone, it gets rows of states."""
    layer = layer_of(qwen3_5.GatedDeltaNet, (64, 64), (1, 2), mx.float32)
    right = usable_layer_step(CppKernels().launcher, [layer])
    assert right is not None
    assert right.serves_slots

    def launcher(kernel: Kernel, scale: float) -> Any:
        launch_right = CppKernels().launcher(kernel, scale)

        def run(**arguments: Any) -> list[mx.array]:
            first, *others = launch_right(**arguments)
            return [first * 1.05, *others] if kernel.name == wrong else [first, *others]

        return run

    found = usable_layer_step(launcher, [layer])
    assert found is None if wrong == "layer_step" else found is not None and not found.serves_slots
