"""Packed matrices whose tensors do not belong together: each is refused by its name; none is read wrongly."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from pensieve.engine.loading.adapt_weights import dequantise
from pensieve.engine.loading.packed_weights import find_reordered, unpack

from .checkpoints import Array, awq_parts, gptq_parts, save, symmetric_parts

GROUPS: dict[str, Any] = {"group_0": {"weights": {"num_bits": 4, "symmetric": True, "group_size": 32}}}
SETTINGS: dict[str, dict[str, Any]] = {
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 32},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False},
    "compressed": {"format": "pack-quantized", "config_groups": GROUPS},
}
PARTS = {"awq": awq_parts, "gptq": gptq_parts(4), "compressed": symmetric_parts(4)}


def packed(method: str) -> dict[str, Array]:
    """Return the tensors of a matrix of 40 outputs and 96 inputs."""
    matrix = np.random.default_rng(0).normal(size=(40, 96)).astype(np.float32)
    parts = PARTS[method](matrix)
    return {f"a.{part}": array for part, array in parts.items() if part != "values"}


def read(method: str, tensors: dict[str, Array], **settings: object) -> dict[str, Any]:
    arrays = {name: mx.array(array) for name, array in tensors.items()}
    return unpack(arrays, SETTINGS[method] | settings)


WORDS = {"awq": "qweight", "gptq": "qweight", "compressed": "weight_packed"}
SCALES = {"awq": "scales", "gptq": "scales", "compressed": "weight_scale"}
DAMAGES: dict[str, Any] = {
    "fewer rows": lambda array: array[:-1],
    "half of the rows": lambda array: array[: len(array) // 2],
    "half of the columns": lambda array: array[:, : array.shape[1] // 2],
    "one row": lambda array: array[:1],
    "turned": lambda array: array.T,
    "flat": lambda array: array.reshape(-1),
    "bytes": lambda array: array.astype(np.uint8),
}


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_tensors_of_other_shapes_and_types_are_refused(method: str, damage: str) -> None:
    """Half of the inputs were read as codes of half of the bits, and zero points of one group as all's."""
    names = [WORDS[method], SCALES[method], *(["qzeros"] if method != "compressed" else [])]
    for name in names:
        tensors = packed(method)
        tensors[f"a.{name}"] = DAMAGES[damage](tensors[f"a.{name}"])
        with pytest.raises(ValueError, match=r"^a(\.| has)"):
            read(method, tensors)


@pytest.mark.parametrize("method", SETTINGS)
def test_words_that_are_floats_scales_that_are_integers_and_missing_parts_are_refused(method: str) -> None:
    for name, dtype in ((WORDS[method], np.float32), (SCALES[method], np.int32)):
        tensors = packed(method)
        tensors[f"a.{name}"] = tensors[f"a.{name}"].astype(dtype)
        with pytest.raises(ValueError, match=rf"^a\.{name} holds no "):
            read(method, tensors)
    tensors = packed(method)
    del tensors[f"a.{SCALES[method]}"]
    with pytest.raises(ValueError, match=rf"^a\.{SCALES[method]} is missing"):
        read(method, tensors)


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_groups_of_another_size_than_the_configs_are_refused(method: str) -> None:
    with pytest.raises(ValueError, match=r"\[3, 40\] scales .* for 96 x 40 weights in groups of 48"):
        read(method, packed(method), group_size=48)
    assert read(method, packed(method), group_size=None)["a.scales"].shape == (40, 3)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_zero_point_of_zero_is_the_largest_code_in_gptqs_first_version(bits: int) -> None:
    """It was read as a zero point beyond all codes."""
    parts = gptq_parts(bits)(np.eye(8, 32, dtype=np.float32))
    tensors = {f"a.{part}": array for part, array in parts.items() if part != "values"}
    tensors["a.qzeros"] = np.full_like(tensors["a.qzeros"], -1)
    assert not read("gptq", tensors, bits=bits)["a.biases"].any()


@pytest.mark.parametrize(
    ("order", "is_reordered"),
    [
        (np.arange(96) // 32, False),
        (np.arange(96)[::-1] // 32, True),
        (np.arange(96) % 3, True),
        (np.arange(96) // 32 - 1, True),
    ],
)
def test_groups_in_order_of_use_are_found_also_where_the_config_denies_them(
    tmp_path: Path, order: Array, is_reordered: bool
) -> None:
    """`desc_act` off was believed."""
    tensors = packed("gptq") | {"a.g_idx": order.astype(np.int32)}
    save(tmp_path, tensors)
    assert find_reordered(tmp_path, SETTINGS["gptq"]) == ("a.g_idx" if is_reordered else None)
    assert read("gptq", tensors)["a.weight"].shape == (40, 12)
    with pytest.raises(ValueError, match=r"a\.g_idx has 95 groups for 96 inputs"):
        read("gptq", tensors | {"a.g_idx": order[1:]})


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((4, 8), {}),
        ((4, 4), {}),
        ((64, 1), {}),
        ((0, 4), {}),
        ((1, 8, 4), {}),
        ((8,), {}),
        ((16, 8), {"weight_block_size": [16, 16]}),
    ],
)
def test_fp8_scales_of_blocks_that_are_no_squares_are_refused(
    shape: tuple[int, ...], settings: dict[str, Any]
) -> None:
    """Scales turned around, or of half of the rows, were spread over blocks of any sides."""
    weights = {"a": mx.to_fp8(mx.ones((128, 64))), "a_scale": mx.ones(shape)}
    with pytest.raises(ValueError, match=r"scales for \[128, 64\] fp8 weights"):
        dequantise(weights, {"quant_method": "fp8"} | settings)


def test_fp8_scales_of_rows_and_of_pieces_of_rows_are_read() -> None:
    weights = {"a": mx.to_fp8(mx.ones((4, 64)))}
    for scales, settings in (
        (mx.arange(1, 5), {}),
        (mx.arange(1, 9).reshape(4, 2), {}),
        (mx.arange(1, 3).reshape(1, 2), {"weight_block_size": [4, 48]}),
    ):
        halves = scales.astype(mx.float32)
        values = dequantise(dict(weights) | {"a_scale": halves}, {"quant_method": "fp8"} | settings)["a"]
        spread = halves.reshape(-1, 1) if halves.ndim == 1 else halves
        width = settings.get("weight_block_size", [1, 64 // spread.shape[1]])[1]
        expected = mx.broadcast_to(mx.repeat(spread, width, 1)[:, :64], (4, 64))
        assert mx.array_equal(values.astype(mx.float32), expected)
    with pytest.raises(ValueError, match="integers"):
        dequantise(weights | {"a_scale": mx.arange(4)}, {"quant_method": "fp8"})
