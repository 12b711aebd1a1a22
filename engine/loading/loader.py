"""Loads a model folder into MLX with mlx-lm. Everything here runs in the engine's process.

Code that comes with a model is never executed: `read_model_info` has refused models that need it, and
`trust_remote_code` stays off.
"""

import contextlib
import io
import sys
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx_lm.utils
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.cache import ArraysCache, make_prompt_cache

from ..attention.cache_structure import leaves, unsupported
from ..attention.paged_model import ATTENTION, PagedModel, probe
from .adapt_weights import explain_load, find_classes, find_overrides
from .model_error import ModelError, first_line
from .model_info import ModelInfo, cannot_quantise


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run, and its facts, corrected by the loaded model."""

    paged: PagedModel
    info: ModelInfo


def compute_dtype() -> str | None:
    """Return the type to cast weights to on this device; None keeps every weight's own, as mlx-lm does.

    MLX's CPU device computes half precision one number at a time, and only float32 reaches its BLAS. On a GPU
    no weight may be cast: some models keep a few in float32 beside half precision (the routers' biases of
    GLM-4.5 and MiniMax-M2, `cast_predicate` in mlx-lm), and rounded ones choose other experts.
    """
    return "float32" if mx.default_device().type == mx.cpu else None


def load(info: ModelInfo) -> LoadedModel:
    """Load and check the weights that `info` describes; correct `info` by the facts of the loaded model.

    Raises ModelError, one line.
    """
    model = open_model(info)
    if dtype := compute_dtype():
        _cast(model, dtype)
    _check_finite(info, model)
    paged = _probe(info, model)
    return LoadedModel(paged, _correct(info, paged))


def check_loadable(info: ModelInfo) -> None:
    """Refuse a model that cannot be served, as far as headers of weights show it. Raises ModelError."""
    open_model(info)


def open_model(info: ModelInfo) -> Any:
    """Make the model that `info` describes, its weights lazy, and refuse it unless the engine can serve it.

    No weight is read: the files need only their headers. Raises ModelError, one line.
    """
    model = _load_model(info)
    _check_weight_types(info, model)
    _check_caches(model)
    _check_attention(model)
    return model


def _load_model(info: ModelInfo) -> Any:
    said = io.StringIO()
    try:
        # Lazily, so that a cast to another type never holds both copies of the whole model.
        with contextlib.redirect_stdout(said):
            model, _ = mlx_lm.utils.load_model(
                info.path,
                lazy=True,
                model_config=find_overrides(info.path),
                get_model_classes=find_classes,
                trust_remote_code=False,
            )
    except Exception as error:  # mlx-lm raises all kinds for a malformed config or checkpoint
        raise ModelError(f"{info.path} cannot be loaded: {explain_load(info.path, error)}") from error
    except SystemExit as error:  # mlx-lm's olmo prints what it lacks and ends the process
        reason = " ".join(said.getvalue().split()) or f"a package for {info.model_type} is missing"
        raise ModelError(f"{info.path} cannot be loaded: {reason}") from error
    return model


def _check_weight_types(info: ModelInfo, model: Any) -> None:
    """Refuse integers in the place of floats: MLX reads raw fp8 weights as such, and answers would be noise.

    A quantised layer, whose weights are integers, has scales.
    """
    for path, module in model.named_modules():
        weight = module.get("weight")
        has_scales = any("scale" in name for name in module)
        if isinstance(weight, mx.array) and not mx.issubdtype(weight.dtype, mx.floating) and not has_scales:
            kind = str(weight.dtype).removeprefix("mlx.core.")
            raise ModelError(
                f"{info.path} cannot be served: the weights of {path} are {kind} numbers without scales"
                " (such as raw fp8), which stand for nothing; take a conversion for MLX"
            )


def _check_caches(model: Any) -> None:
    """Refuse a model whose caches are not all of a kind that is supported."""
    caches = make_prompt_cache(model)
    others = unsupported(caches)
    if any(isinstance(cache, ArraysCache) for cache in leaves(caches)):
        others.append("recurrent layers")
    if others:
        raise ModelError(f"this model needs {', '.join(others)}; not supported yet")
    if len(caches) < len(model.layers):
        raise ModelError("layers of this model share their keys and values; not supported yet")


def _check_attention(model: Any) -> None:
    """Refuse a model that does not use mlx-lm's `scaled_dot_product_attention`, which the engine replaces."""
    modules = {type(part).__module__ for part in model.modules()}
    if not any(hasattr(sys.modules[name], ATTENTION) for name in modules):
        raise ModelError("this model computes attention in a way of its own; not supported yet")


def _cast(model: Any, dtype: str) -> None:
    target = getattr(mx, dtype)

    def cast(value: mx.array) -> mx.array:
        return value.astype(target) if mx.issubdtype(value.dtype, mx.floating) else value

    model.update(tree_map(cast, model.parameters()))


def _check_finite(info: ModelInfo, model: Any) -> None:
    """Evaluate the weights and refuse NaN or infinity: nothing would raise later, answers would be noise."""
    arrays: Any = tree_flatten(model.parameters())
    try:
        mx.eval([array for _, array in arrays])
    except Exception as error:
        raise ModelError(f"{info.path} cannot be loaded: {first_line(error)}") from error
    for name, array in arrays:
        if mx.issubdtype(array.dtype, mx.floating) and not _is_finite(array):
            raise ModelError(f"{info.path} is broken: the weights {name} hold NaN or infinity")


def _is_finite(array: mx.array) -> bool:
    # NaN passes through max and min, which unlike isfinite() over all elements need no copy of the array.
    extremes = mx.stack([mx.max(array), mx.min(array)])
    return bool(mx.all(mx.isfinite(extremes)).item())


def _probe(info: ModelInfo, model: Any) -> PagedModel:
    try:
        return probe(model, info.kv_bits)
    except Exception as error:  # shapes that do not fit raise only here
        raise ModelError(f"{info.path} cannot be run: {first_line(error)}") from error


def _correct(info: ModelInfo, paged: PagedModel) -> ModelInfo:
    """Replace facts that the config only suggests, such as the KV's size, by the loaded model's."""
    try:
        kv_bytes_per_token = paged.kv_bytes_per_token
    except ValueError as error:
        raise cannot_quantise(error) from error
    return replace(
        info,
        vocab_size=paged.vocab_size,
        num_layers=len(paged.layers),
        kv_bytes_per_token=kv_bytes_per_token,
        eos_token_ids=frozenset(token for token in info.eos_token_ids if token < paged.vocab_size),
    )
