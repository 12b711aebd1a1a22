"""Weights keep the types in which mlx-lm loads them, as on a GPU, where nothing is cast."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache

from pensieve.engine.attention.paged_model import probe
from pensieve.engine.fused_model import fuse
from pensieve.engine.loading import loader
from pensieve.engine.loading.loader import compute_dtype, load
from pensieve.engine.loading.model_info import ModelInfo, read_model_info
from pensieve.engine.selfcheck import logits_error

from ...models import random_weights, write_json, write_model

HIDDEN, VOCAB = 64, 512

EXPERTS = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}

# Models whose routers have a bias in float32, and what their configs have beside the ordinary.
ROUTED: dict[str, dict[str, Any]] = {
    "glm4_moe": EXPERTS
    | {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": True,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "use_qk_norm": True,
        "attention_bias": False,
        "partial_rotary_factor": 0.5,
        "rope_scaling": None,
    },
    "minimax": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 32,
        "rotary_dim": 16,
    },
    "step3p5": {
        "num_attention_groups": 2,
        "rope_theta": [1e4] * 3,
        "sliding_window": 40,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "partial_rotary_factors": [0.5, 1.0, 0.5],
        "use_head_wise_attn_gate": True,
        "attention_other_setting": {"num_attention_heads": 4, "num_attention_groups": 2},
        "moe_num_experts": 4,
        "moe_top_k": 2,
        "moe_intermediate_size": 32,
        "share_expert_dim": 32,
        "moe_layers_enum": "1,2",
    },
}


def config(model_type: str) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 3,
        "intermediate_size": 2 * HIDDEN,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": VOCAB,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "eos_token_id": 258,
    } | ROUTED[model_type]


def write_half(folder: Path, model_type: str) -> Path:
    """Write a bfloat16 model whose routers' biases are float32, in the band of GLM-5's, 6.82 to 7.06."""
    write_model(folder)  # for the tokenizer
    given = config(model_type)
    write_json(folder / "config.json", given)
    rng = np.random.default_rng(1)
    weights: dict[str, mx.array] = {}
    for name, drawn in random_weights(given, 0).items():
        is_bias = ("bias" in name and "router" in name) or "correction_bias" in name
        values = rng.uniform(6.82, 7.06, drawn.shape).astype(np.float32) if is_bias else drawn
        weights[name] = mx.array(values).astype(mx.float32 if is_bias else mx.bfloat16)
    assert sum(array.dtype == mx.float32 for array in weights.values()) >= 2
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loader take the CPU for a GPU, and MLX's CPU device multiply experts in half precision."""
    gather = mx.gather_mm

    def gather_half(a: mx.array, b: mx.array, *places: Any, **named: Any) -> mx.array:
        product: mx.array = gather(a.astype(mx.float32), b.astype(mx.float32), *places, **named)
        return product.astype(a.dtype)

    monkeypatch.setattr(mx, "gather_mm", gather_half)
    monkeypatch.setattr(loader, "compute_dtype", lambda: None)


def read_info(folder: Path) -> ModelInfo:
    return read_model_info(folder, "half", loader.compute_dtype(), 16)


def read_arrays(folder: Path) -> dict[str, mx.array]:
    arrays: Any = mx.load(str(folder / "model.safetensors"))
    return dict(arrays)


def types(model: Any) -> dict[str, Any]:
    parameters: Any = tree_flatten(model.parameters())
    return {name: array.dtype for name, array in parameters}


def answer(model: Any, prompt: list[int]) -> list[int]:
    steps = generate_step(mx.array(prompt), model, max_tokens=12, prompt_cache=make_prompt_cache(model))
    return [int(token) for token, _ in steps]


@pytest.mark.parametrize("model_type", ROUTED)
@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_model_in_half_precision_answers_as_mlx_lms(tmp_path: Path, model_type: str) -> None:
    """On a GPU every weight was cast: biases of routers lost their float32, and other experts were chosen.

    The self-check saw nothing, because it compared the cast model with itself.
    """
    folder = write_half(tmp_path, model_type)
    info = read_info(folder)
    loaded, reference = load(info), mlx_lm.utils.load_model(folder)[0]
    assert types(loaded.model) == types(reference)
    assert info.dtype == "bfloat16"
    assert info.weight_bytes == sum(array.nbytes for array in read_arrays(folder).values())
    for start in range(4):
        prompt = [(start + 7919 * i) % VOCAB for i in range(30)]
        assert answer(loaded.model, prompt) == answer(reference, prompt)
    assert logits_error(fuse(loaded), on_host=False) <= 1


@pytest.mark.usefixtures("as_on_a_gpu")
def test_norms_in_float32_are_not_left_to_a_kernel_of_half_precision(tmp_path: Path) -> None:
    """The norm of float32 widens the heads, and so KV is kept in float32, as mlx-lm keeps it."""
    folder = write_model(tmp_path, "qwen3")
    weights = {
        name: array if "_norm" in name else array.astype(mx.bfloat16)
        for name, array in read_arrays(folder).items()
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    info = read_info(folder)
    loaded = load(info)
    assert types(loaded.model) == types(mlx_lm.utils.load_model(folder)[0])
    assert {spec.shape.dtype for spec in loaded.layers} == {mx.float32}
    assert info.kv_type == "float32"
    fused = fuse(loaded)
    assert logits_error(fused, on_host=False) <= 1


def test_every_weight_is_float32_on_mlxs_cpu_device(tmp_path: Path) -> None:
    if compute_dtype() is None:
        pytest.skip("MLX computes on a GPU here")
    loaded = load(read_info(write_half(tmp_path, "glm4_moe")))
    assert set(types(loaded.model).values()) == {mx.float32}
    assert probe(loaded.model, 16).layers == loaded.layers
