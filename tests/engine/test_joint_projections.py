"""Joint projections give what single ones gave, in the same memory, and only where the input is the same."""

import gc
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.utils
import pytest
from mlx.utils import tree_flatten, tree_reduce

from pensieve.engine.joint_projections import MAX_JOINT_ROWS, Joint, JointPart, join_projections

from ..models import write_model
from .attention.compiled import needs_compiler

QKV = ("q_proj", "k_proj", "v_proj")
FEW, MANY = mx.array([[5]] * 3), mx.array([[7] * (MAX_JOINT_ROWS + 1)])


def load(folder: Path, model_type: str = "llama") -> Any:
    return mlx_lm.utils.load_model(write_model(folder / model_type, model_type))[0]


def num_bytes(model: Any) -> int:
    arrays: Any = tree_flatten(model.parameters())
    return sum(array.nbytes for _, array in arrays)


def joints(model: Any) -> list[Joint]:
    return list(
        {id(part._joint): part._joint for part in model.modules() if type(part) is JointPart}.values()
    )


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gpt_oss"])
def test_a_model_computes_the_same_by_half_of_the_matmuls(
    tmp_path: Path, model_type: str, bits: int | None
) -> None:
    """With biases and without, dense and quantised; gpt_oss's experts are of another type and stay."""
    model = load(tmp_path, model_type)
    if bits is not None:
        nn.quantize(model, group_size=32, bits=bits)
    expected, size = [model(tokens) for tokens in (FEW, MANY)], num_bytes(model)
    mx.eval(expected)
    assert join_projections(model) == (0 if model_type == "gpt_oss" else 3)
    assert join_projections(model, QKV) == 3
    for joint in joints(model):
        joint.num_results = 0
    for tokens, logits in zip((FEW, MANY), expected, strict=True):
        assert mx.abs(model(tokens) - logits).max() < 1e-5 * mx.abs(logits).max()
    assert {joint.num_results for joint in joints(model)} == {1}, "few rows joined, many by each layer itself"
    assert num_bytes(model) == size


def test_layers_of_another_precision_stay_by_themselves(tmp_path: Path) -> None:
    """As in models whose values are kept in more bits."""
    model = load(tmp_path)

    def bits(path: str, module: Any) -> Any:
        return hasattr(module, "to_quantized") and {"bits": 8 if "v_proj" in path else 4, "group_size": 32}

    nn.quantize(model, class_predicate=bits)
    expected = model(FEW)
    assert join_projections(model, QKV) == 3
    attention = model.layers[0].self_attn
    assert [type(attention[name]) for name in QKV] == [JointPart, JointPart, nn.QuantizedLinear]
    assert mx.abs(model(FEW) - expected).max() < 1e-5 * mx.abs(expected).max()


def test_joint_weights_take_no_memory(tmp_path: Path) -> None:
    model = load(tmp_path)
    mx.eval(model.parameters())
    all_bytes = tree_reduce(lambda total, weight: total + weight.nbytes, model.parameters(), 0)
    gc.collect()
    before = mx.get_active_memory()  # of the whole process: other tests' arrays may come and go
    assert join_projections(model) + join_projections(model, QKV) == 6
    gc.collect()
    assert mx.get_active_memory() <= before + all_bytes // 8


@needs_compiler
def test_a_compiled_pass_uses_them(tmp_path: Path) -> None:
    model = load(tmp_path)
    expected = model(FEW)
    join_projections(model)
    forward: Any = mx.compile(model)
    for _ in range(2):
        assert mx.abs(forward(FEW) - expected).max() < 1e-5 * mx.abs(expected).max()
    assert all(joint.is_complete and joint._result is None for joint in joints(model)), "nothing is kept"


class Mlp(nn.Module):
    """Its layers have not the same input, or are not called at all, or are read in another way."""

    up_proj: Any

    def __init__(self, way: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.way = way
        self.gate_proj = nn.Linear(8, 16, bias=way == "biased")
        self.up_proj = nn.Linear(8, 16, bias=False)
        if way == "precise":
            self.up_proj.weight = self.up_proj.weight.astype(mx.float16)
        if way == "quantised":
            self.up_proj = nn.QuantizedLinear(32, 16, bias=False, group_size=32)

    def __call__(self, x: mx.array) -> mx.array:
        if self.way == "weight":
            gate: mx.array = x @ self.gate_proj.weight.T
            return gate
        other = x + 1 if self.way == "two inputs" else x
        if self.way == "quantised":
            other = mx.concatenate([x] * 4, axis=-1)
        gate = self.gate_proj(x)
        return gate if self.way == "one" else gate * self.up_proj(other)


class Model(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.embed = nn.Embedding(8, 8)
        self.mlp = Mlp(way)

    def __call__(self, tokens: mx.array) -> mx.array:
        out: mx.array = self.mlp(self.embed(tokens))
        return out


@pytest.mark.parametrize("way", ["two inputs", "one", "weight", "biased", "precise", "quantised"])
def test_other_models_stay_as_they_are(way: str) -> None:
    model = Model(way)
    layers, expected = (model.mlp.gate_proj, model.mlp.up_proj), model(FEW)
    assert join_projections(model) == 0
    assert layers == (model.mlp.gate_proj, model.mlp.up_proj)
    assert (model(FEW) == expected).all()
    assert join_projections(Model("plain")) == 1


def test_an_input_that_comes_twice_is_multiplied_again() -> None:
    """Once more for each layer where the inputs differ: slower, never wrong."""
    model = Model("plain")
    gate, up = model.mlp.gate_proj, model.mlp.up_proj
    join_projections(model)
    first, second = mx.random.normal((2, 8)), mx.random.normal((2, 8))
    found = [model.mlp.gate_proj(first), model.mlp.up_proj(second), model.mlp.gate_proj(second)]
    found.append(model.mlp.gate_proj(second))
    expected = [gate(first), up(second), gate(second), gate(second)]
    assert all(mx.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))
