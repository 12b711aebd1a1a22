"""Turns matrices that AutoAWQ, GPTQ or compressed-tensors have packed into MLX's form of the same numbers.

All four keep small integers, several in a word of 32 bits, with a scale (and a zero point) for each group of
inputs. MLX's form: `weight` (outputs, inputs / n), words that begin with the lowest input, `scales` and
`biases` (outputs, groups); a value is code * scale + bias. Nothing is rounded but a bias: zero point times
scale.
"""

import re
from functools import partial
from typing import Any

import mlx.core as mx

from .json_files import as_dict

Weights = dict[str, mx.array]

AWQ_BITS = 4
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # places of neighbouring outputs in a word

EXPERTS = re.compile(r"(.*)\.experts\.(\d+)\.(\w+)\.(weight|scales|biases)")


def find_group_settings(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return MLX's settings for what AutoAWQ or GPTQ has packed; None for all that `unpack` cannot read.

    settings: the `quantization_config` of the folder.
    """
    method, bits, group_size = (settings.get(key) for key in ("quant_method", "bits", "group_size"))
    is_awq = method == "awq" and bits == AWQ_BITS and str(settings.get("version", "gemm")).lower() == "gemm"
    # With `desc_act`, groups are of inputs that do not lie side by side; `dynamic` gives layers other bits.
    is_plain = not settings.get("desc_act") and not settings.get("dynamic")
    is_gptq = method == "gptq" and bits in (4, 8) and is_plain
    return {"group_size": group_size, "bits": bits} if is_awq or is_gptq else None


def unpack(weights: Weights, settings: dict[str, Any]) -> Weights:
    """Put MLX's form in the place of each packed matrix; the others become half-precision of the same type.

    Float32 stays: some models keep the biases of their routers in it.
    """
    result = dict(weights)
    for name in weights:
        stem, _, ending = name.rpartition(".")
        take = partial(_take, result, stem)
        if ending == "qweight" and settings.get("quant_method") == "awq":
            parts = _unpack_awq(take("qweight"), take("qzeros"), take("scales"))
        elif ending == "qweight":
            parts = _unpack_gptq(take("qweight"), take("qzeros"), take("scales"), settings)
            result.pop(f"{stem}.g_idx", None)
        elif ending == "weight_packed" and (bits := _symmetric_bits(settings)):
            parts = _unpack_symmetric(take(ending), take("weight_scale"), bits)
            result.pop(f"{stem}.weight_shape", None)
        else:
            continue
        result |= {f"{stem}.{part}": array for part, array in parts.items()}
    types = {array.dtype for name, array in result.items() if name.endswith(".scales")}
    return _cast_halves(result, types.pop()) if len(types) == 1 else result


def _take(weights: Weights, stem: str, part: str) -> mx.array:
    return weights.pop(f"{stem}.{part}")


def _cast_halves(weights: Weights, dtype: mx.Dtype) -> Weights:
    """Cast half-precision arrays to one type: MLX multiplies arrays of two such types in float32."""
    halves = (mx.float16, mx.bfloat16)
    return {name: array.astype(dtype) if array.dtype in halves else array for name, array in weights.items()}


def _symmetric_bits(settings: dict[str, Any]) -> int | None:
    """Return the bits of compressed-tensors' packed integers; None for other formats of it."""
    groups = as_dict(settings.get("config_groups")).values()
    found = [as_dict(as_dict(group).get("weights")) for group in groups]
    bits = found[0].get("num_bits") if len(found) == 1 and found[0].get("symmetric", True) else None
    return bits if bits in (4, 8) and settings.get("format") == "pack-quantized" else None


def stack_experts(weights: Weights) -> Weights:
    """Stack the experts' matrices, or only scales and biases, where a model's own code has not done so."""
    found: dict[str, dict[int, str]] = {}
    for name in weights:
        if match := EXPERTS.fullmatch(name):
            layer, number, matrix, part = match.groups()
            found.setdefault(f"{layer}.switch_mlp.{matrix}.{part}", {})[int(number)] = name
    result = dict(weights)
    for target, names in found.items():
        result[target] = mx.stack([result.pop(names[number]) for number in sorted(names)])
    return result


def _unpack_awq(words: mx.array, zeros: mx.array, scales: mx.array) -> Weights:
    """AutoAWQ packs along the outputs: words (inputs, outputs / 8), zeros (groups, outputs / 8)."""
    codes = _codes(words, AWQ_ORDER).T
    packed = codes.reshape(codes.shape[0], -1, 8) << (mx.arange(8) * AWQ_BITS)
    return _affine(packed.astype(mx.uint32).sum(-1), scales.T, _codes(zeros, AWQ_ORDER).T)


def _unpack_gptq(words: mx.array, zeros: mx.array, scales: mx.array, settings: dict[str, Any]) -> Weights:
    """GPTQ packs weights along the inputs, (inputs / n, outputs), and zero points along the outputs."""
    order = tuple(range(32 // settings["bits"]))
    points = _codes(zeros, order).T
    # The first version of the format keeps zero points less one, for the sake of its kernels.
    if settings.get("checkpoint_format") != "gptq_v2":
        points = points + 1
    return _affine(words.view(mx.uint32).T, scales.T, points)


def _unpack_symmetric(words: mx.array, scales: mx.array, bits: int) -> Weights:
    """compressed-tensors packs along the inputs; its codes are integers around the middle of their range."""
    return _affine(words.view(mx.uint32), scales, mx.array(1 << (bits - 1)))


def _codes(words: mx.array, order: tuple[int, ...]) -> mx.array:
    """Return the numbers in words (rows, columns), which are the columns' neighbours."""
    bits = 32 // len(order)
    codes = words.view(mx.uint32)[..., None] >> (mx.array(order, mx.uint32) * bits) & (2**bits - 1)
    numbers: mx.array = codes.reshape(words.shape[0], -1)
    return numbers


def _affine(words: mx.array, scales: mx.array, zeros: mx.array) -> Weights:
    biases = -zeros.astype(mx.float32) * scales.astype(mx.float32)
    return {
        "weight": mx.contiguous(words),
        "scales": mx.contiguous(scales),
        "biases": biases.astype(scales.dtype),
    }
