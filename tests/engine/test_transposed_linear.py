from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.utils
import pytest

from pensieve.engine.fused_model import unfuse
from pensieve.engine.transposed_linear import TransposedLinear, transpose_linears

from ..models import write_model


@pytest.mark.parametrize("shape", [(64,), (3, 64), (1, 1, 64), (5, 1, 64), (2, 7, 64), (2, 3, 4, 64)])
def test_inputs_of_every_shape_give_the_same(shape: tuple[int, ...]) -> None:
    layer: Any = nn.Linear(64, 48, bias=False)
    x = mx.random.normal(shape, key=mx.random.key(len(shape)))
    expected, found = layer(x), TransposedLinear(layer)(x)
    assert found.shape == expected.shape
    assert mx.allclose(found, expected, atol=1e-5)


def test_a_model_keeps_its_logits_and_its_memory(tmp_path: Path) -> None:
    model: Any = mlx_lm.utils.load_model(write_model(tmp_path, "qwen2"))[0]
    tokens = mx.array([[5, 6, 7]] * 2)
    expected = model(tokens)
    mx.eval(model.parameters(), expected)
    before = mx.get_active_memory()
    assert transpose_linears(model) == 3 * 4 + 1, "the projections of qwen2's heads have biases"
    assert mx.get_active_memory() <= before + 1024
    assert mx.abs(model(tokens) - expected).max() < 1e-5 * mx.abs(expected).max()
    assert mx.get_active_memory() <= before + 1024 + 2 * expected.nbytes
    unfuse(model)
    assert not any(isinstance(module, TransposedLinear) for module in model.modules())


class Reader(nn.Module):
    """Reads a layer's weights."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.up = nn.Linear(8, 8, bias=False)

    def __call__(self, tokens: mx.array) -> mx.array:
        product: mx.array = mx.zeros((1, 1, 8)) @ self.up.weight
        return product


def test_a_model_that_reads_weights_stays_as_it_is() -> None:
    model = Reader()
    up = model.up
    assert transpose_linears(model) == 0
    assert model.up is up
