"""Turns matrices that AutoAWQ, GPTQ or compressed-tensors have packed into MLX's form of the same numbers.

Most keep small integers, several in a word of 32 bits, with a scale (and a zero point) for each group of
inputs. MLX's form: `weight` (outputs, inputs / n), words that begin with the lowest input, `scales` and
`biases` (outputs, groups); a value is code * scale + bias. Nothing is rounded but a bias: zero point times
scale. MXFP4 has floats of 4 bits, in groups as MLX has them.
"""

import re
from pathlib import Path
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
        matrix = PackedMatrix(result, stem, settings)
        if ending == "qweight" and settings.get("quant_method") == "awq":
            parts = matrix.unpack_awq()
        elif ending == "qweight":
            parts = matrix.unpack_gptq()
        elif ending == "weight_packed" and settings.get("format") == "mxfp4-pack-quantized":
            parts = matrix.unpack_mxfp4()
        elif ending == "weight_packed" and (weight_settings := _symmetric_settings(settings)):
            parts = PackedMatrix(result, stem, weight_settings).unpack_symmetric()
        else:
            continue
        result |= {f"{stem}.{part}": array for part, array in parts.items()}
    scales = [array for name, array in result.items() if name.endswith(".scales")]
    types = {array.dtype for array in scales if mx.issubdtype(array.dtype, mx.floating)}
    return _cast_halves(result, types.pop()) if len(types) == 1 else result


def _cast_halves(weights: Weights, dtype: mx.Dtype) -> Weights:
    """Cast half-precision arrays to one type: MLX multiplies arrays of two such types in float32."""
    halves = (mx.float16, mx.bfloat16)
    return {name: array.astype(dtype) if array.dtype in halves else array for name, array in weights.items()}


def _symmetric_settings(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return bits and group size of compressed-tensors' packed integers; None for other formats of it."""
    groups = as_dict(settings.get("config_groups")).values()
    found = [as_dict(as_dict(group).get("weights")) for group in groups]
    bits = found[0].get("num_bits") if len(found) == 1 and found[0].get("symmetric", True) else None
    if bits not in (4, 8) or settings.get("format") != "pack-quantized":
        return None
    return {"bits": bits, "group_size": found[0].get("group_size")}


def find_reordered(folder: Path, settings: dict[str, Any]) -> str | None:
    """Return the name of a GPTQ matrix whose groups are of inputs that do not lie side by side; else None.

    Its values are read: `desc_act` does not always tell.
    """
    size = settings.get("group_size")
    for file in sorted(folder.glob("model*.safetensors")) if settings.get("quant_method") == "gptq" else ():
        tensors: Any = mx.load(str(file))
        for name, order in tensors.items():
            if name.endswith(".g_idx"):
                whole = size if type(size) is int and size > 0 else order.size
                if not mx.array_equal(order, mx.arange(order.size) // whole).item():
                    return str(name)
    return None


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


class PackedMatrix:
    """The tensors of one packed matrix, which are taken out of all weights as they are read."""

    def __init__(self, weights: Weights, stem: str, settings: dict[str, Any]) -> None:
        """settings: `bits`, `group_size` and what else the folder's makers say of the format."""
        self._weights = weights
        self._stem = stem
        self._settings = settings

    def unpack_awq(self) -> Weights:
        """AutoAWQ packs along the outputs: words (inputs, outputs / 8), zeros (groups, outputs / 8)."""
        words, zeros, scales = self._words("qweight"), self._words("qzeros"), self._scales("scales")
        self._check_fit(
            words.shape[0], words.shape[1] * 8, scales.shape, (zeros.shape[0], zeros.shape[1] * 8)
        )
        codes = _codes(words, AWQ_ORDER).T
        packed = codes.reshape(codes.shape[0], -1, 8) << (mx.arange(8) * AWQ_BITS)
        return _affine(packed.astype(mx.uint32).sum(-1), scales.T, _codes(zeros, AWQ_ORDER).T)

    def unpack_gptq(self) -> Weights:
        """GPTQ packs weights along the inputs, (inputs / n, outputs), and zero points along the outputs."""
        words, zeros, scales = self._words("qweight"), self._words("qzeros"), self._scales("scales")
        bits = self._settings["bits"]
        inputs, number = words.shape[0] * (32 // bits), 32 // bits
        self._check_fit(inputs, words.shape[1], scales.shape, (zeros.shape[0], zeros.shape[1] * number))
        order = self._weights.pop(f"{self._stem}.g_idx", None)  # `find_reordered` looks at its values
        if order is not None and order.shape != (inputs,):
            raise ValueError(f"{self._stem}.g_idx has {order.size} groups for {inputs} inputs")
        points = _codes(zeros, tuple(range(number))).T
        # The first version of the format keeps zero points less one, for the sake of its kernels; of zero
        # that is the largest code.
        if self._settings.get("checkpoint_format") != "gptq_v2":
            points = (points + 1) & (2**bits - 1)
        return _affine(words.view(mx.uint32).T, scales.T, points)

    def unpack_symmetric(self) -> Weights:
        """compressed-tensors packs along the inputs; its codes are integers around their range's middle."""
        words, scales = self._words("weight_packed"), self._scales("weight_scale")
        bits = self._settings["bits"]
        of_groups = (scales.shape[1], scales.shape[0])
        self._check_fit(words.shape[1] * (32 // bits), words.shape[0], of_groups, of_groups)
        self._weights.pop(f"{self._stem}.weight_shape", None)
        return _affine(words.view(mx.uint32), scales, mx.array(1 << (bits - 1)))

    def unpack_mxfp4(self) -> Weights:
        """compressed-tensors keeps 4-bit floats, with a power of two for each 32 inputs, as MLX does."""
        packed = self._take("weight_packed", "bytes", (mx.uint8,))
        scales = self._take("weight_scale", "exponents", (mx.uint8,))
        outputs, inputs = packed.shape[0], packed.shape[1] * 2
        if inputs % 32 or scales.shape != (outputs, inputs // 32):
            raise ValueError(f"{self._stem} has {list(scales.shape)} scales for {inputs} x {outputs} weights")
        return {"weight": mx.contiguous(packed).view(mx.uint32), "scales": scales}

    def _words(self, part: str) -> mx.array:
        return self._take(part, "words of 32 bits", (mx.int32, mx.uint32))

    def _scales(self, part: str) -> mx.array:
        return self._take(part, "scales", (mx.float16, mx.bfloat16, mx.float32))

    def _take(self, part: str, kind: str, types: tuple[mx.Dtype, ...]) -> mx.array:
        name = f"{self._stem}.{part}"
        if name not in self._weights:
            raise ValueError(f"{name} is missing")
        array = self._weights.pop(name)
        if array.dtype not in types or array.ndim != 2:
            raise ValueError(f"{name} holds no {kind}")
        return array

    def _check_fit(self, inputs: int, outputs: int, scales: tuple[int, ...], zeros: tuple[int, ...]) -> None:
        """Refuse other shapes than (groups, outputs) of scales and zero points. Raises ValueError."""
        size = self._settings.get("group_size")
        if type(size) is not int or size <= 0:  # -1: one group for all inputs
            size = max(1, inputs // max(1, scales[0]))
        if inputs % size or scales != (inputs // size, outputs) or zeros != scales:
            shapes = f"{list(scales)} scales and {list(zeros)} zero points"
            raise ValueError(
                f"{self._stem} has {shapes} for {inputs} x {outputs} weights in groups of {size}"
            )


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
