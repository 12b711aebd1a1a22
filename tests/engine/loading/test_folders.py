"""Folders as people have them: each is served with the answers of the plain model, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from pensieve.engine.loading.adapt_weights import dequantise, sanitize_adapted
from pensieve.engine.loading.lazy_model import open_model
from pensieve.engine.loading.loader import compute_dtype, load
from pensieve.engine.loading.model_error import ModelError
from pensieve.engine.loading.model_info import read_model_info

from ...families.table import FAMILIES
from ...models import random_weights, write_model
from .checkpoints import (
    Array,
    Change,
    add,
    awq_parts,
    both,
    gptq_parts,
    mxfp4_parts,
    nvfp4_parts,
    quantise_to_fp8,
    rename,
    replace_matrices,
    save,
    symmetric_parts,
    wrap,
)

MOE = {"num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1, "mlp_only_layers": []}
MOE |= {"moe_intermediate_size": 64, "norm_topk_prob": True}

EXPERTS = ["gate_proj", "up_proj", "down_proj"]


def write_plain(folder: Path, model_type: str) -> Path:
    """Write a small model as its makers do."""
    is_moe = model_type == "qwen3_moe"
    write_model(folder, "llama" if is_moe else model_type)
    config = json.loads((folder / "config.json").read_text()) | (MOE if is_moe else {})
    config |= {"model_type": model_type, "tie_word_embeddings": "gemma" in model_type}
    (folder / "config.json").write_text(json.dumps(config))
    save(folder, one_by_one(random_weights(config, 0)))
    return folder


def one_by_one(weights: dict[str, Array]) -> dict[str, Array]:
    """Name the experts one by one, as most makers do."""
    result: dict[str, Array] = {}
    for name, array in weights.items():
        if "switch_mlp" in name:
            result |= {name.replace("switch_mlp", f"experts.{number}"): a for number, a in enumerate(array)}
        else:
            result[name] = array
    return result


def logits(folder: Path) -> np.ndarray[Any, Any]:
    model = load(read_model_info(folder, "tiny", compute_dtype(), 16)).model
    return np.array(model(mx.array([[1, 5, 300, 258, 7]]))[0].astype(mx.float32))


MTP = ("mtp.fc.weight", "mtp.layers.0.self_attn.q_proj.weight", "mtp.norm.weight")
TOWER = ("model.visual.blocks.0.attn.qkv.weight", "model.visual.merger.linear_fc1.weight")
NEW_NAMES = rename(("model.", "model.language_model."))
OLD_NAMES = rename(("", "language_model."))
GEMMA_TOWER = add(
    "model.vision_tower.vision_model.encoder.layers.30.fc1.weight",
    "model.multi_modal_projector.mm_input_projection_weight",
)

SERVED: dict[str, tuple[str, Change]] = {
    "MTP beside a MoE": ("qwen3_moe", add(*MTP)),
    "MTP beside a dense model": ("qwen3", add(*MTP)),
    "MTP as a layer more": ("llama", add("model.layers.3.eh_proj.weight", "model.layers.3.enorm.weight")),
    "a tower beside a text model": ("qwen3", add(*TOWER)),
    "a wrapper's names in a text model": ("qwen3", both(NEW_NAMES, add(*TOWER))),
    "gemma3, older names": ("gemma3_text", both(OLD_NAMES, wrap("gemma3"), add("vision_tower.a.weight"))),
    "gemma3, newer names": ("gemma3_text", both(NEW_NAMES, wrap("gemma3"), GEMMA_TOWER)),
    "mistral3, older names": ("llama", both(OLD_NAMES, wrap("mistral3"), add("vision_tower.a.weight"))),
    "mistral3, newer names": ("llama", both(NEW_NAMES, wrap("mistral3"), GEMMA_TOWER)),
    "qwen3_vl": ("qwen3", both(NEW_NAMES, wrap("qwen3_vl"), add(*TOWER))),
    "qwen2_5_vl": ("qwen2", both(wrap("qwen2_5_vl"), add("visual.blocks.0.weight"))),
}


@pytest.mark.parametrize("name", SERVED)
def test_what_is_more_or_named_otherwise_changes_nothing(tmp_path: Path, name: str) -> None:
    model_type, change = SERVED[name]
    expected = logits(write_plain(tmp_path / "plain", model_type))
    folder = write_plain(tmp_path / "changed", model_type)
    change(folder)
    np.testing.assert_array_equal(logits(folder), expected)


BLOCKS = quantise_to_fp8("block", "weight_scale_inv", quant_method="fp8", weight_block_size=[16, 16])
ROWS = quantise_to_fp8("row", "weight_scale", quant_method="compressed-tensors", format="float-quantized")
TENSORS = quantise_to_fp8("tensor", "weight_scale", quant_method="modelopt", quant_algo="FP8")
INPUTS = add("model.layers.0.mlp.up_proj.input_scale", "model.layers.0.self_attn.k_scale")

FP8: dict[str, tuple[str, Change]] = {
    "blocks": ("llama", BLOCKS),
    "blocks of experts": ("qwen3_moe", BLOCKS),
    "rows": ("qwen3", ROWS),
    "rows of experts": ("qwen3_moe", ROWS),
    "tensors": ("llama", TENSORS),
    "tensors, and scales of inputs": ("qwen3_moe", both(INPUTS, TENSORS)),
}


@pytest.mark.parametrize("name", FP8)
def test_fp8_weights_are_read_with_their_scales(tmp_path: Path, name: str) -> None:
    model_type, change = FP8[name]
    folder = write_plain(tmp_path / "fp8", model_type)
    change(folder)
    np.testing.assert_array_equal(logits(folder), logits(folder / "plain"))


AWQ = replace_matrices(awq_parts, quant_method="awq", bits=4, group_size=32, version="gemm")
GPTQ = {
    bits: replace_matrices(gptq_parts(bits), quant_method="gptq", bits=bits, group_size=32, desc_act=False)
    for bits in (4, 8)
}
SYMMETRIC = {
    bits: replace_matrices(
        symmetric_parts(bits),
        quant_method="compressed-tensors",
        format="pack-quantized",
        config_groups={"group_0": {"weights": {"num_bits": bits, "symmetric": True, "group_size": 32}}},
    )
    for bits in (4, 8)
}

MXFP4 = replace_matrices(mxfp4_parts, quant_method="compressed-tensors", format="mxfp4-pack-quantized")
NVFP4 = {
    method: replace_matrices(nvfp4_parts(is_modelopt=method == "modelopt"), quant_method=method, **settings)
    for method, settings in [
        ("modelopt", {"quant_algo": "NVFP4"}),
        ("compressed-tensors", {"format": "nvfp4-pack-quantized"}),
    ]
}

PACKED: dict[str, tuple[str, Change]] = {
    "AWQ": ("llama", AWQ),
    "AWQ, experts": ("qwen3_moe", AWQ),
    "AWQ, MTP": ("qwen3", both(add("mtp.fc.weight"), AWQ)),
    "GPTQ": ("qwen3_moe", GPTQ[4]),
    "GPTQ, 8 bits": ("llama", GPTQ[8]),
    "compressed-tensors": ("qwen3_moe", SYMMETRIC[4]),
    "compressed-tensors, 8 bits": ("llama", SYMMETRIC[8]),
    "MXFP4": ("qwen3_moe", MXFP4),
    "NVFP4 by ModelOpt": ("qwen3_moe", NVFP4["modelopt"]),
    "NVFP4 by compressed-tensors, biases": ("qwen2", NVFP4["compressed-tensors"]),
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_weights_answer_with_the_values_that_they_hold(tmp_path: Path, name: str) -> None:
    """Within float16's rounding: MLX keeps a zero point as the product of zero point and scale.

    4-bit floats, which have no zero points, are exact, up to the order of sums.
    """
    model_type, change = PACKED[name]
    folder = write_plain(tmp_path / "packed", model_type)
    change(folder)
    expected = logits(folder / "plain")
    rounding = 1e-5 if "FP4" in name else 0.01
    assert np.abs(logits(folder) - expected).max() < rounding * np.abs(expected).max()
    assert read_model_info(folder, "tiny", None, 16).quantization


def published(name: str, array: Array) -> tuple[str, Array]:
    """Name and shape a tensor of mlx-lm's qwen3_5_moe as its makers do: norms are added to one."""
    if name.endswith(("layernorm.weight", "model.norm.weight", "q_norm.weight", "k_norm.weight")):
        array = array - 1
    elif "conv1d.weight" in name:
        array = np.moveaxis(array, 2, 1)
    new = name.replace("language_model.model.", "model.language_model.").replace("language_model.lm_", "lm_")
    return new, array


def test_qwen_3_5_in_fp8_with_mtp_and_tower_is_read_as_published(tmp_path: Path) -> None:
    family = FAMILIES["qwen3_5_moe"]
    weights = random_weights(family.full_config, 0, scale=family.scale, vector_noise=0.1)
    folder, plain = write_model(tmp_path / "published"), write_model(tmp_path / "mlx")
    for path in (folder, plain):
        (path / "config.json").write_text(json.dumps(family.full_config))
    save(plain, weights)
    save(folder, dict(published(*item) for item in one_by_one(weights).items()))
    add(*MTP, *TOWER)(folder)
    expected = opened_logits(plain)
    np.testing.assert_array_equal(opened_logits(folder), expected)
    BLOCKS(folder)
    np.testing.assert_array_equal(opened_logits(folder), opened_logits(folder / "plain"))


def opened_logits(folder: Path) -> Array:
    return np.array(open_model(folder)(mx.array([[1, 5, 100, 58, 7]]))[0].astype(mx.float32))


# Tensors in the place of a matrix, of which only names matter, by settings of the config.
WORDS = ("weight_packed", "weight_scale", "weight_global_scale")
MODELOPT = ("weight", "weight_scale", "weight_scale_2", "input_scale")
INDEXED = ("qweight", "qzeros", "scales", "g_idx")
REFUSED: dict[str, tuple[tuple[str, ...], dict[str, object], str]] = {
    "GPTQ in order of use": (INDEXED, {"quant_method": "gptq", "bits": 4, "desc_act": True}, "gptq, "),
    "GPTQ, 3 bits": (INDEXED, {"quant_method": "gptq", "bits": 3}, "gptq, "),
    "AWQ of another layout": (INDEXED, {"quant_method": "awq", "bits": 4, "version": "gemv"}, "awq, "),
    "bitsandbytes": (("weight", "absmax"), {"quant_method": "bitsandbytes"}, "bitsandbytes, "),
    "NVFP4": (
        WORDS,
        {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"},
        ".*no NVFP4 matrix",
    ),
    "int8": (WORDS[:2], {"quant_method": "compressed-tensors", "format": "int-quantized"}, ".*int-quantized"),
    "ModelOpt": (
        MODELOPT,
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        "modelopt, .*no NVFP4 matrix",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_quantisations_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    names, settings, message = REFUSED[name]
    parts = {part: np.zeros((4, 4), np.uint8) for part in names}
    folder = write_plain(tmp_path / "model", "llama")
    replace_matrices(lambda _: parts, **settings)(folder)
    expected = f"weights are quantised by {message}.*take a conversion for MLX"
    with pytest.raises(ModelError, match=expected) as caught:
        logits(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_gptq_in_order_of_use_is_refused_where_the_config_denies_it(tmp_path: Path) -> None:
    """Its values were read in the order of the inputs, and answers were noise."""
    folder = write_plain(tmp_path / "model", "llama")
    replace_matrices(
        lambda matrix: (parts := gptq_parts(4)(matrix)) | {"g_idx": parts["g_idx"][::-1].copy()},
        **{"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False},
    )(folder)
    with pytest.raises(ModelError, match=r"quantised by gptq, .*g_idx puts inputs into groups that"):
        logits(folder)


FP8_SETTINGS = {"quant_method": "fp8"}


@pytest.mark.parametrize("is_exponent", [False, True])
def test_blocks_at_the_end_of_a_matrix_may_be_cut(is_exponent: bool) -> None:
    exponents = np.array([[127, 128], [129, 130], [126, 125]], np.uint8)
    powers = 2.0 ** (exponents.astype(np.float32) - 127)
    weights = {
        "a": mx.to_fp8(mx.ones((40, 24))),
        "a_scale_inv": mx.array(exponents if is_exponent else powers),
    }
    values = dequantise(weights, FP8_SETTINGS)["a"]
    expected = powers.repeat(16, 0).repeat(16, 1)[:40, :24]
    np.testing.assert_array_equal(np.array(values.astype(mx.float32)), expected)


@pytest.mark.parametrize("blocks", [3, 5, 100])
def test_scales_of_blocks_that_do_not_fit_are_refused(blocks: int) -> None:
    """Scales beyond the matrix, or of blocks of another size, were cut off, and values were wrong."""
    weights = {"a": mx.to_fp8(mx.ones((64, 64))), "a_scale_inv": mx.ones((blocks, 1))}
    with pytest.raises(ValueError, match=rf"\[{blocks}, 1\] scales for \[64, 64\] fp8 weights"):
        dequantise(weights, FP8_SETTINGS)


def test_bytes_with_scales_are_not_fp8_unless_the_config_says_so() -> None:
    """BitNet's weights are bytes with a `weight_scale`, which mlx-lm reads."""
    weights = {"a.weight": mx.zeros((4, 4), mx.uint8), "a.weight_scale": mx.ones((1,))}
    assert dequantise(weights, {"quant_method": "bitnet"}) is weights


def test_a_models_own_code_sees_mtp_heads_before_they_go() -> None:
    """Some models tell by them whether a checkpoint is as its makers wrote it."""

    class Model:
        layers = ()

        def parameters(self) -> dict[str, Any]:
            return {"norm": {"weight": mx.zeros(4)}}

        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            offset = float("mtp.norm.weight" in weights)
            return {name: array + offset for name, array in weights.items()}

    weights = {"norm.weight": mx.zeros(4), "mtp.norm.weight": mx.zeros(4)}
    result = sanitize_adapted(Model(), weights, {})
    assert {name: array.tolist() for name, array in result.items()} == {"norm.weight": [1.0] * 4}
