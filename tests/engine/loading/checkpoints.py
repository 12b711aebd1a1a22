"""Writes checkpoints as people have them: other names, other types, more tensors than a text model needs."""

import json
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors.numpy import load_file

from ..broken_models import WEIGHTS, edit

Array = np.ndarray[Any, Any]
Change = Callable[[Path], object]

TYPES = {"float32": "F32", "float16": "F16", "uint8": "U8", "uint32": "U32", "int32": "I32"}

BLOCK = 16
"""Rows and columns that one scale is for, in these small models; makers use 128."""


def save(folder: Path, weights: Mapping[str, Array], fp8: frozenset[str] = frozenset()) -> None:
    """Write a file of weights; bytes of the names in `fp8` are fp8 numbers, of which numpy has no type."""
    header: dict[str, Any] = {}
    data = b""
    for name, array in weights.items():
        dtype = "F8_E4M3" if name in fp8 else TYPES[str(array.dtype)]
        end = len(data) + array.nbytes
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), end]}
        data += np.ascontiguousarray(array).tobytes()
    raw = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(raw)) + raw + data)


def rename(*rules: tuple[str, str]) -> Change:
    """Change how names begin: the first rule that fits counts."""

    def change(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        save(folder, {_renamed(name, rules): array for name, array in weights.items()})

    return change


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for old, new in rules:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def add(*names: str) -> Change:
    """Add tensors that no text model has."""
    tensors: dict[str, Array] = {name: np.full((4, 4), 0.5, np.float32) for name in names}
    return lambda folder: save(folder, load_file(folder / WEIGHTS) | tensors)


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for part in changes:
            part(folder)

    return change


def wrap(model_type: str) -> Change:
    """Put the config into a text_config, as wrappers of a text model have it."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        wrapper = {"model_type": model_type, "text_config": config, "vision_config": {"depth": 1}}
        wrapper["vocab_size"] = config["vocab_size"]  # gemma3 has a default of its own
        (folder / "config.json").write_text(json.dumps(wrapper))

    return change


def quantise_to_fp8(kind: str, suffix: str, **settings: object) -> Change:
    """Keep the layers' matrices as fp8 numbers with scales for a tensor, each row or each block.

    Beside them goes the folder `plain`, with the values that they then stand for.
    """

    def change(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        plain = {name: array for name, array in weights.items() if not name.endswith("_scale")}
        result, fp8 = dict(weights), set()
        for name, array in weights.items():
            if not name.endswith("_proj.weight"):
                continue
            scales = _scales(array, kind)
            spread = mx.array(_spread(scales, array.shape))
            numbers = mx.to_fp8(mx.array(array) / spread)
            values = mx.from_fp8(numbers, mx.bfloat16) * spread
            plain[name] = np.array(values.astype(mx.bfloat16).astype(mx.float32))
            result[name] = np.array(numbers)
            result[name.removesuffix("weight") + suffix] = scales
            fp8.add(name)
        shutil.copytree(folder, folder / "plain")
        save(folder / "plain", plain)
        save(folder, result, frozenset(fp8))
        edit(folder / "config.json", quantization_config=settings)

    return change


def replace_matrices(parts: Callable[[Array], dict[str, Array]], **settings: object) -> Change:
    """Put other tensors in the place of each of the layers' matrices; `parts` gives them by their endings.

    A part "values" is what the others stand for: it goes into the folder `plain`.
    """

    def change(folder: Path) -> None:
        result: dict[str, Array] = {}
        plain: dict[str, Array] = {}
        for name, array in load_file(folder / WEIGHTS).items():
            if name.endswith("_proj.weight"):
                stem, made = name.removesuffix("weight"), parts(array)
                plain[name] = made.pop("values", array)
                result |= {stem + ending: part for ending, part in made.items()}
            else:
                result[name] = plain[name] = array
        shutil.copytree(folder, folder / "plain")
        save(folder / "plain", plain)
        save(folder, result)
        edit(folder / "config.json", quantization_config=settings)

    return change


AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
"""Which of eight neighbouring outputs lies in a word's lowest bits, the next ones, and so on."""


def awq_parts(array: Array) -> dict[str, Array]:
    """Quantise a matrix as AutoAWQ does: 32 inputs a group, eight outputs a word."""
    codes, scales, zeros = _quantise(array, 4)
    values = _values(codes, scales, zeros)
    words = {"qweight": _pack(codes, 4, AWQ_ORDER), "qzeros": _pack(zeros, 4, AWQ_ORDER)}
    return words | {"scales": scales.astype(np.float16), "values": values}


def gptq_parts(bits: int) -> Callable[[Array], dict[str, Array]]:
    """Quantise matrices as GPTQ does: neighbouring inputs in a word, zero points less one."""

    def parts(array: Array) -> dict[str, Array]:
        codes, scales, zeros = _quantise(array, bits)
        return {
            "qweight": np.ascontiguousarray(_pack(codes.T, bits).T),
            "qzeros": _pack(zeros - 1, bits),
            "scales": scales.astype(np.float16),
            "g_idx": np.arange(len(codes), dtype=np.int32) // 32,
            "values": _values(codes, scales, zeros),
        }

    return parts


def symmetric_parts(bits: int) -> Callable[[Array], dict[str, Array]]:
    """Quantise matrices as compressed-tensors does for integers around zero."""

    def parts(array: Array) -> dict[str, Array]:
        middle = 1 << (bits - 1)
        groups = array.reshape(len(array), -1, 32)
        scales = np.abs(groups).max(2) / (middle - 1)
        codes = np.round(groups / scales[:, :, None]).reshape(array.shape)
        return {
            "weight_packed": _pack(codes + middle, bits),
            "weight_scale": scales,
            "weight_shape": np.array(array.shape, np.int32),
            "values": (codes.reshape(groups.shape) * scales[:, :, None]).reshape(array.shape),
        }

    return parts


def _quantise(array: Array, bits: int) -> tuple[Array, Array, Array]:
    """Return codes (inputs, outputs), and scales and zero points (groups, outputs)."""
    groups = array.T.reshape(-1, 32, len(array))
    top = 2**bits - 1
    scales = ((groups.max(1) - groups.min(1)) / top).astype(np.float16).astype(np.float32)
    zeros = np.clip(np.round(-groups.min(1) / scales), 1, top)
    codes = np.clip(np.round(groups / scales[:, None]) + zeros[:, None], 0, top)
    return codes.reshape(array.T.shape), scales, zeros


def _values(codes: Array, scales: Array, zeros: Array) -> Array:
    groups = codes.reshape(len(scales), 32, -1) - zeros[:, None]
    return np.ascontiguousarray((groups * scales[:, None]).reshape(codes.shape).T)


def _pack(codes: Array, bits: int, order: list[int] | None = None) -> Array:
    """Pack a row's neighbouring numbers into words, the first of `order` into the lowest bits."""
    order = order or list(range(32 // bits))
    parts = codes.astype(np.uint32).reshape(len(codes), -1, len(order))[:, :, order]
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    packed: Array = np.bitwise_or.reduce(parts << shifts, axis=2).view(np.int32)
    return packed


def _scales(array: Array, kind: str) -> Array:
    size = np.abs(array)
    if kind == "tensor":
        return np.array(size.max() / 448, np.float32)
    if kind == "row":
        return np.asarray(size.max(1, keepdims=True) / 448, np.float32)
    rows, columns = (-(-length // BLOCK) for length in array.shape)
    padded = np.zeros((rows * BLOCK, columns * BLOCK), np.float32)
    padded[: array.shape[0], : array.shape[1]] = size
    return np.asarray(padded.reshape(rows, BLOCK, columns, BLOCK).max((1, 3)) / 448, np.float32)


def _spread(scales: Array, shape: tuple[int, ...]) -> Array:
    if scales.ndim == 0 or scales.shape[1] == 1:
        return scales
    return scales.repeat(BLOCK, 0).repeat(BLOCK, 1)[: shape[0], : shape[1]]


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
"""Sizes of the floats of four bits, of which the highest is the sign."""


def nvfp4_parts(is_modelopt: bool) -> Callable[[Array], dict[str, Array]]:
    """Quantise matrices to NVFP4, as ModelOpt or compressed-tensors does: 16 inputs a group."""

    def parts(array: Array) -> dict[str, Array]:
        of_matrix = np.float32(np.abs(array).max() / (6 * 448))
        scales = mx.to_fp8(mx.array(_largest(array, 16) / of_matrix))
        packed, values = _four_bits(array, np.array(mx.from_fp8(scales, mx.float32)) * of_matrix)
        result: dict[str, Array] = {"weight_scale": np.array(scales), "values": values}
        if is_modelopt:
            return result | {
                "weight": packed,
                "weight_scale_2": np.array(of_matrix),
                "input_scale": np.array(of_matrix),
            }
        inverse = np.array([1 / of_matrix], np.float32)
        result |= {"weight_packed": packed, "weight_global_scale": inverse}
        return result | {"input_global_scale": inverse}

    return parts


def mxfp4_parts(array: Array) -> dict[str, Array]:
    """Quantise a matrix to MXFP4, as compressed-tensors does: 32 inputs a group, scales are powers of two."""
    exponents = np.ceil(np.log2(_largest(array, 32)))
    packed, values = _four_bits(array, np.exp2(exponents).astype(np.float32))
    return {"weight_packed": packed, "weight_scale": (exponents + 127).astype(np.uint8), "values": values}


def _largest(array: Array, size: int) -> Array:
    """Return the scales with which each group's largest number is the largest float."""
    return np.asarray(np.abs(array.reshape(len(array), -1, size)).max(2) / 6)


def _four_bits(array: Array, scales: Array) -> tuple[Array, Array]:
    """Return a matrix's codes, two in a byte, and the values that they and the groups' scales stand for."""
    groups = array.reshape(*scales.shape, -1) / scales[:, :, None]
    codes = np.abs(np.abs(groups)[..., None] - E2M1).argmin(-1) | np.signbit(groups) << 3
    values = E2M1[codes & 7] * np.where(codes & 8, -1, 1) * scales[:, :, None]
    pairs = codes.reshape(len(array), -1, 2).astype(np.uint8)
    return pairs[:, :, 0] | pairs[:, :, 1] << 4, np.asarray(values.reshape(array.shape), np.float32)
