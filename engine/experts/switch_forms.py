"""mlx-lm's mixture-of-experts layers for few tokens on CUDA: forms of their classes' `__call__`."""

import logging
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import SwiGLU, SwitchGLU, SwitchLinear, SwitchMLP

from ..attention.kernels.layer_kernels import Launch
from ..attention.kernels.source import Kernel
from ..pass_functions import Function
from .expert_products import MAX_PAIRS, ExpertProducts, serves

logger = logging.getLogger(__name__)

PROJECTIONS = {SwitchGLU: ("gate_proj", "up_proj", "down_proj"), SwitchMLP: ("fc1", "fc2")}
"""The names of the projections of each class of mlx-lm."""


def glu_form(products: ExpertProducts, theirs: Function) -> Function:
    """Return a function that takes the place of `SwitchGLU.__call__`."""

    def call(self: Any, x: mx.array, indices: mx.array) -> mx.array:
        if not _is_served(self, x, indices):
            result: mx.array = theirs(self, x, indices)
            return result
        outs = glu_outputs(products, self, x.reshape(-1, x.shape[-1]), indices.reshape(-1))
        return outs.reshape(*indices.shape, -1)

    return call


def glu_outputs(products: ExpertProducts, layer: Any, rows: mx.array, experts: mx.array) -> mx.array:
    """Return what a SwitchGLU of served weights returns for each pair, see ExpertProducts.multiply."""
    gate, up, down = (layer[name] for name in PROJECTIONS[SwitchGLU])
    if type(layer.activation) is SwiGLU and "bias" not in gate and "bias" not in up:
        hidden = products.gated(rows, gate.weight, up.weight, experts)
    else:
        hidden = layer.activation(*(_project(products, each, rows, experts) for each in (up, gate)))
    return _project(products, down, hidden, experts)


def mlp_form(products: ExpertProducts, theirs: Function) -> Function:
    """Return a function that takes the place of `SwitchMLP.__call__`."""

    def call(self: Any, x: mx.array, indices: mx.array) -> mx.array:
        if not _is_served(self, x, indices):
            result: mx.array = theirs(self, x, indices)
            return result
        rows, experts = x.reshape(-1, x.shape[-1]), indices.reshape(-1)
        hidden = self.activation(_project(products, self.fc1, rows, experts))
        return _project(products, self.fc2, hidden, experts).reshape(*indices.shape, -1)

    return call


FORMS = {SwitchGLU: glu_form, SwitchMLP: mlp_form}


def usable_products(launcher: Callable[[Kernel, float], Launch], model: nn.Module) -> ExpertProducts | None:
    """Return the kernel if it computes what mlx-lm computes for the model's own experts, on this device.

    None for a model without experts that the kernel serves, and, with a warning, for a kernel that fails.
    """
    modules = {_shapes(module): module for module in model.modules() if type(module) in PROJECTIONS}
    served = [module for module in modules.values() if has_served_weights(module)]
    if not served:
        return None
    try:
        products = ExpertProducts(launcher)
        if max(_error(products, module) for module in served) < 2e-2:  # rounds to half precision
            return products
        logger.warning("the kernel of the experts computes wrongly here and is not used")
    except Exception as exception:  # all that a compiler or driver raises
        logger.warning("the kernel of the experts cannot be used here: %s", exception)
    return None


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


def _is_served(module: Any, x: mx.array, indices: mx.array) -> bool:
    """Whether the kernel computes this call."""
    if indices.size > MAX_PAIRS or x.shape[:-1] != indices.shape[:-1] or not has_served_weights(module):
        return False
    is_same: bool = x.dtype == module[PROJECTIONS[type(module)][0]].weight.dtype
    return is_same


def has_served_weights(module: Any) -> bool:
    """Whether the kernel multiplies by all of the module's weights."""
    layers = [module[name] for name in PROJECTIONS[type(module)]]
    if any(type(layer) is not SwitchLinear or not serves(layer.weight) for layer in layers):
        return False
    return len({layer.weight.dtype for layer in layers}) == 1


def _project(products: ExpertProducts, layer: Any, inputs: mx.array, experts: mx.array) -> mx.array:
    """Return what a SwitchLinear returns, (pairs, outputs); see ExpertProducts.multiply."""
    out = products.multiply(inputs, layer.weight, experts)
    return out + layer.bias[experts] if "bias" in layer else out


def _shapes(module: Any) -> tuple[Any, ...]:
    """Return what tells one module's kernels from another's."""
    layers = [module[name] for name in PROJECTIONS[type(module)]]
    return (type(module), *((type(layer), layer["weight"].shape, layer["weight"].dtype) for layer in layers))


def _error(products: ExpertProducts, module: Any) -> float:
    """Return the largest distance between a module with the kernel and without, on random rows."""
    weights = module[PROJECTIONS[type(module)][0]].weight
    x = mx.random.normal((3, weights.shape[2]), key=mx.random.key(0)).astype(weights.dtype)
    indices = mx.array([[0, 1], [1, len(weights) - 1], [1, 0]], mx.uint32)
    theirs = type(module).__call__
    right = theirs(module, x, indices).astype(mx.float32)
    found = FORMS[type(module)](products, theirs)(module, x, indices).astype(mx.float32)
    return float(mx.abs(found - right).max() / mx.abs(right).max())
