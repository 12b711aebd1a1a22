"""Makes a checkpoint's tensors those of mlx-lm's model, where mlx-lm's own code leaves some over.

A model's `sanitize` in mlx-lm knows the names that its maker used for one checkpoint. Folders as people have
them hold more: heads that predict several tokens (MTP), towers for pictures and sounds, the names of newer
versions of transformers, fp8 weights with scales in blocks, packed weights. What mlx-lm reads by itself stays
as it is.
"""

import re
from collections import abc
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
from mlx.utils import tree_flatten

from .json_files import as_dict, read_optional_json
from .model_error import first_line
from .nvfp4 import SETTINGS, formats, is_nvfp4, name_matrices, unpack_nvfp4
from .packed_weights import EXPERTS, find_group_settings, stack_experts, unpack

Weights = dict[str, mx.array]

# Parts of a checkpoint that take no part in a text model's answers.
OTHER_PARTS = re.compile(
    r"(^|\.)(mtp|mtp_\w+|visual|vision_tower|vision_model|vision_embed\w*|vision_encoder|vision_proj\w*"
    r"|audio_tower|audio_encoder|embed_vision|embed_audio|multi_modal_projector|mm_projector)\."
)

# Transformers 5 puts a wrapper's models under one more "model"; before, the text model was the first part.
WRAPPED = "model.language_model."

SCALES = ("_scale_inv", "_scale")  # behind the name of what they are for
SCALES_OF_INPUTS = (
    *(".input_scale", ".activation_scale", ".k_scale", ".v_scale", ".output_scale"),
    ".input_global_scale",
)


def find_overrides(folder: Path) -> dict[str, Any]:
    """Return keys of the config that mlx-lm must see otherwise, to take weights as they are adapted."""
    settings = read_quantization(folder)
    if groups := SETTINGS if is_nvfp4(settings) else find_group_settings(settings):
        return {"quantization_config": None, "quantization": groups}
    return {"quantization_config": None} if _is_fp8_of_others(settings) else {}


def read_quantization(folder: Path) -> dict[str, Any]:
    """Return how the folder's makers quantised its weights; an empty object where they say nothing."""
    config = read_optional_json(folder / "config.json")
    settings = as_dict(config.get("quantization_config"))
    settings = settings or as_dict(as_dict(config.get("text_config")).get("quantization_config"))
    # NVIDIA's ModelOpt writes a file of its own, in an object more.
    settings = settings or read_optional_json(folder / "hf_quant_config.json")
    return settings | as_dict(settings.get("quantization"))


def explain_load(folder: Path, error: Exception) -> str:
    """Return why mlx-lm could not load a folder: most often for its quantisation, where it has one."""
    settings = read_quantization(folder)
    method = settings.get("quant_method", settings.get("quant_algo"))
    if not isinstance(method, str):
        return first_line(error)
    return (
        f"its weights are quantised by {method}, in a way that cannot be read ({first_line(error, 120)}); "
        "take a conversion for MLX, or the unquantised model"
    )


def _is_fp8(settings: dict[str, Any]) -> bool:
    """Whether weights are fp8 with scales. (Bytes with a scale may be other things: BitNet's, NVFP4.)"""
    return settings.get("quant_method") in ("fp8", "fbgemm_fp8") or _is_fp8_of_others(settings)


def _is_fp8_of_others(settings: dict[str, Any]) -> bool:
    """Whether weights are fp8 by a method that mlx-lm knows for other kinds of weights only."""
    is_of_modelopt = settings.get("quant_algo") in ("FP8", "MIXED_PRECISION")
    return is_of_modelopt or "float-quantized" in formats(settings)


def find_classes(config: dict[str, Any], settings: dict[str, Any]) -> tuple[Any, Any]:
    """Return a function that makes the model of `config` from its arguments, and the arguments' class.

    The first call of the model's `sanitize` adapts the weights. Raises ValueError for an unknown model.
    settings: see read_quantization.
    """
    model_class, arguments_class = mlx_lm.utils._get_classes(config)
    for name, layer in as_dict(config.get("quantization")).items():
        if isinstance(layer, dict) and layer.get("group_size") == 0:
            raise ValueError(f"{name} is quantised in groups of no inputs")

    def make(arguments: Any) -> Any:
        model = model_class(arguments)

        def sanitize(weights: Weights) -> Weights:
            del model.sanitize  # this one; the class has its own
            result = sanitize_adapted(model, weights, settings)
            _check_groups(model, result)
            return result

        model.sanitize = sanitize
        return model

    return make, arguments_class


def _check_groups(model: Any, weights: Weights) -> None:
    """Refuse scales of more groups than inputs: mlx-lm makes groups of none of them, which ends the process.

    Raises ValueError.
    """
    parameters: Any = tree_flatten(model.parameters())
    inputs = {name: array.shape[-1] for name, array in parameters if name.endswith(".weight")}
    for name, array in weights.items():
        matrix = name.removesuffix("scales") + "weight"
        if name.endswith(".scales") and array.ndim and array.shape[-1] > inputs.get(matrix, array.shape[-1]):
            raise ValueError(f"{name} has {array.shape[-1]} groups for {inputs[matrix]} inputs")


def sanitize_adapted(model: Any, weights: Weights, settings: dict[str, Any]) -> Weights:
    """Name and shape `weights` as `model` has them: by the model's own code, adapted only where need be."""
    own = getattr(model, "sanitize", dict)
    known = _parameters(model)
    try:
        result: Weights = dict(own(dict(weights)))
        if not any(_is_over(model, name) for name in result.keys() - known):
            return result
    except Exception:  # for other names or other parts than it expects
        weights = _without_others(model, weights)
    if _is_fp8(settings) or is_nvfp4(settings):
        weights = {name: array for name, array in weights.items() if not name.endswith(SCALES_OF_INPUTS)}
    adapted = _rename(known, unpack(dequantise(unpack_nvfp4(weights), settings), settings))
    named = name_matrices(model, lambda given: stack_experts(own(given)), adapted)
    return _without_others(model, named, known)


def _without_others(model: Any, weights: Weights, known: abc.Set[str] = frozenset()) -> Weights:
    """Leave out the tensors of MTP and of towers; not before a model's own code has seen them, if it can."""
    return {name: array for name, array in weights.items() if name in known or not _is_other(model, name)}


def dequantise(weights: Weights, settings: dict[str, Any]) -> Weights:
    """Multiply fp8 weights by their scales, one for a tensor, a row or a block; the result is bfloat16."""
    if not _is_fp8(settings):
        return weights
    result = dict(weights)
    for suffix in SCALES:
        for name in [name for name in result if name.endswith(suffix)]:
            target = name.removesuffix(suffix)
            if target in result and result[target].dtype == mx.uint8:
                result[target] = _from_fp8(result[target], result.pop(name), settings)
    return result


def _from_fp8(weight: mx.array, scales: mx.array, settings: dict[str, Any]) -> mx.array:
    values = mx.from_fp8(weight, dtype=mx.bfloat16)
    if scales.dtype == mx.uint8:  # powers of two, of which a byte is the exponent
        scales = mx.power(2.0, scales.astype(mx.float32) - 127)
    if not mx.issubdtype(scales.dtype, mx.floating):
        raise ValueError("scales of fp8 weights are integers")
    if scales.size == 1:
        return (values * scales.reshape(())).astype(mx.bfloat16)
    if scales.ndim == values.ndim - 1:
        scales = scales[..., None]
    rows, columns = values.shape[-2:]
    height, width = _find_block(values.shape, scales.shape, settings)
    scales = mx.repeat(mx.repeat(scales, height, -2), width, -1)[..., :rows, :columns]
    return (values * scales).astype(mx.bfloat16)


def _find_block(
    values: tuple[int, ...], scales: tuple[int, ...], settings: dict[str, Any]
) -> tuple[int, int]:
    """Return rows and columns of the blocks of which each has one scale; the last ones may be cut.

    Where the config does not tell, blocks are rows, squares, or pieces of one row; sides are powers of two.
    Raises ValueError where the shapes do not fit.
    """
    sides = [1 << exponent for exponent in range(16)]
    given = settings.get("weight_block_size")
    if isinstance(given, list) and len(given) == 2 and all(type(n) is int and n > 0 for n in given):
        blocks = [(given[0], given[1])]
    else:
        blocks = [(1, values[-1]), *zip(sides, sides, strict=True), *((1, side) for side in sides)]
    for height, width in blocks:
        if scales == (*values[:-2], -(-values[-2] // height), -(-values[-1] // width)):
            return height, width
    raise ValueError(f"{list(scales)} scales for {list(values)} fp8 weights")


def _parameters(model: Any) -> set[str]:
    parameters: Any = tree_flatten(model.parameters())
    return {name for name, _ in parameters}


def _is_over(model: Any, name: str) -> bool:
    endings = (*SCALES, *SCALES_OF_INPUTS, ".qweight", ".weight_packed")
    return _is_other(model, name) or name.endswith(endings) or EXPERTS.fullmatch(name) is not None


def _is_other(model: Any, name: str) -> bool:
    if OTHER_PARTS.search(name):
        return True
    layer = re.search(r"(^|\.)layers\.(\d+)\.", name)  # some keep the layers of MTP behind the others
    return layer is not None and int(layer[2]) >= len(model.layers)


def _rename(known: abc.Set[str], weights: Weights) -> Weights:
    """Give a wrapped text model the names that its class has in mlx-lm."""
    is_wrapped = any(name.startswith(WRAPPED) for name in weights)
    if not is_wrapped or any(name.startswith(WRAPPED) for name in known):
        return weights
    outer = "language_model." if any(name.startswith("language_model.") for name in known) else ""

    def rename(name: str) -> str:
        if name.startswith(WRAPPED):
            return f"{outer}model.{name.removeprefix(WRAPPED)}"
        return outer + name if name.startswith("lm_head.") else name

    return {rename(name): array for name, array in weights.items()}
