"""Loads a model folder into MLX with mlx-lm. Everything here runs in the engine's process.

Code that comes with a model is never executed: `read_model_info` has refused models that need it, and
`trust_remote_code` stays off.
"""

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from ..attention.paged_model import PagedModel, probe
from ..ranks.rendezvous import Group
from .adapt_weights import explain_load, read_quantization
from .lazy_model import cast_weights, open_model
from .model_error import ModelError, first_line
from .model_info import ModelInfo
from .packed_weights import find_reordered


def compute_dtype() -> str | None:
    """Return the type to cast weights to on this device; None keeps every weight's own, as mlx-lm does.

    MLX's CPU device computes half precision one number at a time, and only float32 reaches its BLAS. On a GPU
    no weight may be cast: some models keep a few in float32 beside half precision (the routers' biases of
    GLM-4.5 and MiniMax-M2, `cast_predicate` in mlx-lm), and rounded ones choose other experts.
    """
    return "float32" if mx.default_device().type == mx.cpu else None


def load(info: ModelInfo, group: Group = None) -> PagedModel:
    """Load and check the weights that `info` describes. Raises ModelError, one line.

    group: the ranks over which the model is spread: only this rank's part is kept. None for one device.
    """
    model = open_model(info.path, group)
    if name := find_reordered(info.path, read_quantization(info.path)):
        error = ValueError(f"{name} puts inputs into groups that do not lie side by side")
        raise ModelError(f"{info.path} cannot be loaded: {explain_load(info.path, error)}")
    if dtype := compute_dtype():
        cast_weights(model, dtype)
    if group is not None:
        _evaluate_parts(info, model)
    _check_finite(info, model)
    return probe(model, info.kv_bits)


def _evaluate_parts(info: ModelInfo, model: Any) -> None:
    """Evaluate the weights one after another: all at once, MLX would read whole ones before it cuts them."""
    arrays: Any = tree_flatten(model.parameters())
    try:
        for _, array in arrays:
            mx.eval(array)
    except Exception as error:
        raise ModelError(f"{info.path} cannot be loaded: {first_line(error)}") from error


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
