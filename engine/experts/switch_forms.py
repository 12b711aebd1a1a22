"""mlx-lm's mixture-of-experts layers on CUDA: forms of their classes' `__call__`."""

import logging
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import SwiGLU, SwitchGLU, SwitchLinear, SwitchMLP

from ..attention.kernels.layer_kernels import Launch
from ..pass_functions import Function, on_cuda
from .expert_pairs import ExpertKernels, Pairs
from .expert_products import MAX_PAIRS
from .unsorted_products import products_on_cuda

logger = logging.getLogger(__name__)

MAX_ERROR = 2e-2
"""The largest distance from mlx-lm's output, relative to the largest number; half precision rounds."""

PROJECTIONS = {SwitchGLU: ("gate_proj", "up_proj", "down_proj"), SwitchMLP: ("fc1", "fc2")}
"""The names of the projections of each class of mlx-lm."""


def switch_form(kernels: ExpertKernels, theirs: Function) -> Function:
    """Return a function that takes the place of the `__call__` of one of the classes of PROJECTIONS."""

    def call(self: Any, x: mx.array, indices: mx.array) -> mx.array:
        is_row_each = x.shape[:-1] == indices.shape[:-1]
        if not is_row_each or not is_served(kernels, self, x, indices.size):
            result: mx.array = theirs(self, x, indices)
            return result
        outs = switch_outputs(kernels, self, x.reshape(-1, x.shape[-1]), indices.reshape(-1))
        return outs.reshape(*indices.shape, -1)

    return call


def switch_outputs(kernels: ExpertKernels, layer: Any, rows: mx.array, experts: mx.array) -> mx.array:
    """Return what a layer that is served returns for each pair, (pairs, size).

    rows: (rows, size), one for as many pairs that follow one another as there are pairs for a row.
    experts: (pairs,), integers.
    """
    *first, last = (layer[name] for name in PROJECTIONS[type(layer)])
    pairs = kernels.pairs(experts, len(last.weight))
    if len(first) == 1:
        hidden = layer.activation(_first(pairs, first[0], rows))
    elif type(layer.activation) is SwiGLU and not any("bias" in each for each in first):
        hidden = pairs.gated(rows, *(each.weight for each in first))
    else:
        gate, up = first
        hidden = layer.activation(_first(pairs, up, rows), _first(pairs, gate, rows))
    out = pairs.multiply_back(hidden, last.weight)
    return out + last.bias[experts] if "bias" in last else out


def is_served(kernels: ExpertKernels, layer: Any, x: mx.array, num_pairs: int) -> bool:
    """Whether the kernels compute a layer's outputs for an input of so many pairs."""
    layers = [layer[name] for name in PROJECTIONS.get(type(layer), ())]
    if not layers or any(type(each) is not SwitchLinear for each in layers):
        return False
    weights = [each.weight for each in layers]
    return x.dtype == weights[0].dtype and kernels.serve(weights, num_pairs)


def usable_experts(launcher: Callable[..., Launch], model: nn.Module) -> ExpertKernels | None:
    """Return the kernels that compute what mlx-lm computes for the model's own experts, on this device.

    None for a model without experts that they serve, and, with a warning, where they fail.
    """
    kernels = ExpertKernels.declare(launcher)
    layers = {_shapes(layer): layer for layer in model.modules() if type(layer) in PROJECTIONS}
    few, many = (
        [each for each in layers.values() if is_served(kernels, each, _input(each, 1), num_pairs)]
        for num_pairs in (1, MAX_PAIRS + 1)
    )
    if not few or not _work("few tokens", lambda: max(_error(kernels, each, 3) for each in few)):
        return None
    num_rows = MAX_PAIRS // 2 + 1
    if many and not _work("many tokens", lambda: max(_error(kernels, each, num_rows) for each in many)):
        return kernels._replace(many=None)
    return kernels


def _work(kind: str, error: Callable[[], float]) -> bool:
    """Whether kernels for tokens of a kind compute rightly; warn if not."""
    try:
        if error() < MAX_ERROR:
            return True
        logger.warning("the kernels of experts for %s compute wrongly here and are not used", kind)
    except Exception as exception:  # all that a compiler or driver raises
        logger.warning("the kernels of experts for %s cannot be used here: %s", kind, exception)
    return False


def lay_out_experts(model: nn.Module) -> None:
    """Let the weights of all experts be without gaps in memory.

    Some of mlx-lm's models cut a joint matrix of gate and up in two, of which both remain views. The kernels
    would copy such weights for each pass, and MLX's grouped product on CUDA reads another expert's.
    """
    for module in model.modules():
        layers = [child for child in module.children().values() if type(child) is SwitchLinear]
        for layer in layers:
            layer.weight = mx.contiguous(layer.weight)
        mx.eval([layer.weight for layer in layers])


def _first(pairs: Pairs, layer: Any, rows: mx.array) -> mx.array:
    """Return what a SwitchLinear returns, in the order in between; see Pairs."""
    out = pairs.multiply(rows, layer.weight)
    return out + layer.bias[pairs.experts] if "bias" in layer else out


def _shapes(layer: Any) -> tuple[Any, ...]:
    """Return what tells one layer's kernels from another's."""
    projections = [layer[name] for name in PROJECTIONS[type(layer)]]
    arrays = ((type(each), each["weight"].shape, each["weight"].dtype) for each in projections)
    return type(layer), type(layer.activation), *arrays


def _input(layer: Any, num_rows: int) -> mx.array:
    """Return random rows of the layer's input; lazy."""
    weight = layer[PROJECTIONS[type(layer)][0]]["weight"]
    return mx.random.normal((num_rows, weight.shape[2]), key=mx.random.key(0)).astype(weight.dtype)


def _error(kernels: ExpertKernels, layer: Any, num_rows: int) -> float:
    """Return the largest distance between a layer with the kernels and without, of rows of two pairs each."""
    x = _input(layer, num_rows)
    num_experts = len(layer[PROJECTIONS[type(layer)][0]].weight)
    first = mx.random.randint(0, num_experts, (num_rows,), key=mx.random.key(1))
    indices = mx.stack([first, (first + 1) % num_experts], axis=1).astype(mx.uint32)
    theirs = type(layer).__call__
    with on_cuda(products_on_cuda(layer)):
        right = theirs(layer, x, indices).astype(mx.float32)
    found = switch_form(kernels, theirs)(layer, x, indices).astype(mx.float32)
    return float(mx.abs(found - right).max() / mx.abs(right).max())
