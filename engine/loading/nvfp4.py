"""Matrices of 4-bit floats (NVFP4) as NVIDIA's ModelOpt and compressed-tensors write them, in MLX's form.

A value is a float of 4 bits, times a float of 8 bits for each 16 inputs, times a float32 for the whole
matrix. MLX's form has the first two, in the same bits, so nothing is rounded; the third becomes a layer's
`output_scale`, one number for each output, by which the layer multiplies what its matrix gives.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from .json_files import as_dict

Weights = dict[str, mx.array]

SETTINGS: dict[str, Any] = {"group_size": 16, "bits": 4, "mode": "nvfp4"}
"""MLX's settings for such matrices."""

FORMAT = "nvfp4-pack-quantized"

OUTPUT_SCALE = ".output_scale"

MATRIX_SCALES = {".weight_scale_2": ".weight", ".weight_global_scale": ".weight_packed"}
"""Endings of the matrices' scales, by method, and of the packed values beside them."""


def formats(settings: dict[str, Any]) -> set[str]:
    """Return the formats that compressed-tensors names in a folder's settings."""
    groups = as_dict(settings.get("config_groups")).values()
    found = [settings.get("format"), *(as_dict(group).get("format") for group in groups)]
    return {each for each in found if isinstance(each, str)}


def is_nvfp4(settings: dict[str, Any]) -> bool:
    """Whether a folder's matrices, or some of them, are NVFP4."""
    algorithm = str(settings.get("quant_algo"))
    return "NVFP4" in algorithm or algorithm == "MIXED_PRECISION" or FORMAT in formats(settings)


def unpack_nvfp4(weights: Weights) -> Weights:
    """Put MLX's form, and a column of output scales, in the place of each matrix. Raises ValueError."""
    result = dict(weights)
    for name in weights:
        ending = next((ending for ending in MATRIX_SCALES if name.endswith(ending)), None)
        if ending is not None:
            stem = name.removesuffix(ending)
            packed, scales = stem + MATRIX_SCALES[ending], f"{stem}.weight_scale"
            if packed not in result or scales not in result:
                raise ValueError(f"{stem} has an NVFP4 scale, but no values or no groups' scales")
            matrix = result.pop(packed), result.pop(scales), result.pop(name)
            result |= {stem + part: array for part, array in _matrix(stem, *matrix, ending).items()}
    return result


def _matrix(stem: str, packed: mx.array, scales: mx.array, of_matrix: mx.array, ending: str) -> Weights:
    """Return the parts of one matrix by their endings; `packed`: (outputs, inputs / 2), low bits first."""
    outputs, num_bytes = packed.shape if packed.ndim == 2 else (0, 1)
    is_packed = packed.dtype == scales.dtype == mx.uint8 and num_bytes % 8 == 0
    if not is_packed or scales.shape != (outputs, num_bytes // 8) or of_matrix.size != 1:
        shapes = [list(array.shape) for array in (packed, scales, of_matrix)]
        raise ValueError(f"{stem} is no NVFP4 matrix: {shapes}")
    scale = of_matrix.reshape(1).astype(mx.float32)
    scale = 1 / scale if ending == ".weight_global_scale" else scale
    words = mx.contiguous(packed).view(mx.uint32)
    return {".weight": words, ".scales": scales, OUTPUT_SCALE: mx.repeat(scale, outputs)[:, None]}


def name_matrices(model: nn.Module, own: Callable[[Weights], Weights], weights: Weights) -> Weights:
    """Return weights as `own` names and stacks them, and let the model have layers with output scales.

    own: the model's function for that. It knows a matrix as `weight` and may know nothing of scales, of which
    a matrix has a row for each of its outputs: so it is run once with each of the three parts in this place.
    Raises ValueError.
    """
    stems = [name.removesuffix(OUTPUT_SCALE) for name in weights if name.endswith(OUTPUT_SCALE)]
    scales = {f"{stem}{part}" for stem in stems for part in (".scales", OUTPUT_SCALE)}
    plain = {name: array for name, array in weights.items() if name not in scales}
    result = dict(own(dict(plain)))
    names = [name for name, array in result.items() if name.endswith(".weight") and array.dtype == mx.uint32]
    if not stems:
        return result
    for part in (".scales", OUTPUT_SCALE):
        named = own(plain | {f"{stem}.weight": weights[stem + part] for stem in stems})
        result |= {name.removesuffix(".weight") + part: named[name] for name in names}
    paths, layers = [name.removesuffix(".weight") for name in names], dict(model.named_modules())
    model.update_modules(tree_unflatten([(path, _scaled(path, layers.get(path))) for path in paths]))
    return result | {f"{path}{OUTPUT_SCALE}": result[path + OUTPUT_SCALE][..., 0] for path in paths}


def _scaled(path: str, layer: Any) -> nn.Module:
    """Return a layer like `layer` whose quantised form has output scales. Raises ValueError."""
    has_bias = layer is not None and "bias" in layer
    if type(layer) is nn.Linear:
        outputs, inputs = layer.weight.shape
        return ScaledLinear(inputs, outputs, has_bias)
    if type(layer) is SwitchLinear:
        experts, outputs, inputs = layer.weight.shape
        return ScaledSwitchLinear(inputs, outputs, experts, has_bias)
    raise ValueError(f"{path} is NVFP4, but no layer that can be")


class ScaledLinear(nn.Linear):
    """A linear layer that has output scales once it is quantised."""

    def to_quantized(self, group_size: int, bits: int, mode: str) -> Any:  # type: ignore[override]
        """Return the quantised layer."""
        return ScaledQuantizedLinear.from_linear(self, group_size, bits, mode)


class ScaledQuantizedLinear(nn.QuantizedLinear):
    """A quantised linear layer with output scales."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.output_scale = mx.ones((self.weight.shape[0],))

    def __call__(self, x: mx.array) -> mx.array:
        """Multiply inputs by the matrix, and the result by the output scales."""
        out = mx.quantized_matmul(
            _wide(x),
            self["weight"],
            self["scales"],
            transpose=True,
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
        )
        scaled: mx.array = (out * self["output_scale"]).astype(x.dtype)
        return scaled + self["bias"] if "bias" in self else scaled


class ScaledSwitchLinear(SwitchLinear):
    """Experts' linear layers that have output scales once they are quantised."""

    def to_quantized(self, group_size: int, bits: int, mode: str) -> Any:  # type: ignore[override]
        """Return the quantised layers."""
        experts, outputs, inputs = self.weight.shape
        quantised = ScaledQuantizedSwitchLinear(inputs, outputs, experts, False, group_size, bits, mode)
        if "bias" in self:
            quantised.bias = self.bias
        return quantised


class ScaledQuantizedSwitchLinear(QuantizedSwitchLinear):
    """Experts' quantised linear layers with output scales."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.output_scale = mx.ones(self.weight.shape[:2])

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """Multiply inputs by their experts' matrices, and the results by the experts' output scales."""
        out = mx.gather_qmm(
            _wide(x),
            self["weight"],
            self["scales"],
            rhs_indices=indices,
            transpose=True,
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
            sorted_indices=sorted_indices,
        )
        scaled: mx.array = (out * self["output_scale"][indices][..., None, :]).astype(x.dtype)
        return scaled + self["bias"][indices][..., None, :] if "bias" in self else scaled


def _wide(x: mx.array) -> mx.array:
    """Return inputs in a type that holds sums of values without the matrices' scales, up to 2,688 each."""
    return x.astype(mx.float32) if x.dtype == mx.float16 else x
