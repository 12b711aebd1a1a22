"""Whole blocks of experts on CUDA: the choice, the experts, and the sum in four or five kernels.

Each form takes the place of the `__call__` of a class of mlx-lm's, whose own takes twice as many operations.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.glm4_moe_lite import Glm4MoeLiteMoE
from mlx_lm.models.qwen3_moe import Qwen3MoeSparseMoeBlock
from mlx_lm.models.qwen3_next import Qwen3NextSparseMoeBlock
from mlx_lm.models.switch_layers import SwitchGLU

from ..attention.kernels.layer_kernels import Launch
from ..pass_functions import Function, on_cuda
from ..transposed_linear import TransposedLinear
from .expert_choice import MAX_EXPERTS, Choice, ExpertChoice, Gate, SharedExpert
from .expert_pairs import ExpertKernels
from .switch_forms import MAX_ERROR, is_served, switch_outputs
from .unsorted_products import products_on_cuda

logger = logging.getLogger(__name__)


class BlockKernels(NamedTuple):
    """The kernels of a block."""

    experts: ExpertKernels
    choice: ExpertChoice


class BlockParts(NamedTuple):
    """What differs between the blocks of mlx-lm's classes, for one input."""

    logits: mx.array  # (rows, experts)
    choice: Choice
    shared: SharedExpert | None
    has_rounded_products: bool  # of outputs and shares
    gate: Gate | None = None  # of the shared expert, unless that has its logit


def _softmax_parts(block: Any, x: mx.array) -> BlockParts:
    shared = gate = None
    if "shared_expert" in block:
        weight = _gate_weight(block.shared_expert_gate, x)
        gate = None if weight is None else Gate(_rows(x), weight)
        logit = None if gate else _rows(block.shared_expert_gate(x))
        shared = SharedExpert(_rows(block.shared_expert(x)), logit)
    choice = Choice(block.top_k, block.norm_topk_prob)
    return BlockParts(_rows(block.gate(x)), choice, shared, has_rounded_products=True, gate=gate)


def _gate_weight(layer: Any, x: mx.array) -> mx.array | None:
    """Return the weights of a linear layer that the kernel multiplies by, None of another one."""
    own = layer.own if isinstance(layer, TransposedLinear) else layer
    if type(own) is not nn.Linear or "bias" in own or own.weight.dtype != x.dtype or x.shape[-1] % 8:
        return None
    return own.weight


def _sigmoid_parts(block: Any, x: mx.array) -> BlockParts:
    gate = block.gate
    shared = SharedExpert(_rows(block.shared_experts(x))) if "shared_experts" in block else None
    corrections = gate.e_score_correction_bias.astype(mx.float32)
    normalises = gate.top_k > 1 and gate.norm_topk_prob
    choice = Choice(gate.top_k, normalises, corrections, gate.routed_scaling_factor)
    return BlockParts(_rows(x @ gate.weight.T), choice, shared, has_rounded_products=False)


def _rows(array: mx.array) -> mx.array:
    return array.reshape(-1, array.shape[-1])


PARTS: dict[Any, Callable[[Any, mx.array], BlockParts]] = {
    Qwen3MoeSparseMoeBlock: _softmax_parts,
    Qwen3NextSparseMoeBlock: _softmax_parts,
    Glm4MoeLiteMoE: _sigmoid_parts,
}


def block_form(kernels: BlockKernels, theirs: Function) -> Function:
    """Return a function that takes the place of the `__call__` of one of the classes of PARTS."""

    def call(self: Any, x: mx.array) -> mx.array:
        parts = PARTS[type(self)](self, x) if _is_served(kernels.experts, self, x) else None
        if parts is None or parts.logits.dtype != x.dtype:
            result: mx.array = theirs(self, x)
            return result
        chosen = kernels.choice.choose(parts.logits, parts.choice, parts.gate)
        outs = switch_outputs(kernels.experts, self.switch_mlp, _rows(x), chosen.experts.reshape(-1))
        shared = parts.shared
        if shared is not None and parts.gate is not None:
            shared = shared._replace(logit=chosen.gate_logit)
        return kernels.choice.sum(outs, chosen.shares, shared, parts.has_rounded_products).reshape(x.shape)

    return call


def block_forms(
    launcher: Callable[..., Launch], experts: ExpertKernels, model: nn.Module
) -> dict[str, Callable[[Function], Function]]:
    """Return the forms of the model's blocks by their functions' names, if they work on this device.

    Empty for a model without such blocks, and, with a warning, where the kernels fail.
    """
    blocks = {_shape(block): block for block in model.modules() if type(block) in PARTS}
    served = [block for block in blocks.values() if _is_served(experts, block, _input(block))]
    if not served:
        return {}
    try:
        kernels = BlockKernels(experts, ExpertChoice(launcher))
        if max(_error(kernels, block) for block in served) < MAX_ERROR:
            return {f"{each.__name__}.__call__": partial(block_form, kernels) for each in PARTS}
        logger.warning("the kernels that choose experts compute wrongly here and are not used")
    except Exception as exception:  # all that a compiler or driver raises
        logger.warning("the kernels that choose experts cannot be used here: %s", exception)
    return {}


def _is_served(experts: ExpertKernels, block: Any, x: mx.array) -> bool:
    """Whether the kernels compute this call."""
    if type(block) not in PARTS or block.sharding_group is not None:
        return False
    layer = block.switch_mlp
    if type(layer) is not SwitchGLU:
        return False
    is_sigmoid = type(block) is Glm4MoeLiteMoE
    if is_sigmoid and block.gate.n_group != 1:
        return False
    num_pairs = x.size // x.shape[-1] * (block.gate.top_k if is_sigmoid else block.top_k)
    return is_served(experts, layer, x, num_pairs) and len(layer.up_proj.weight) <= MAX_EXPERTS


def _shape(block: Any) -> tuple[Any, ...]:
    """Return what tells one block's kernels from another's."""
    weight = block.switch_mlp.up_proj["weight"]
    return type(block), weight.shape, weight.dtype


def _input(block: Any) -> mx.array:
    """Return random rows of the block's input; lazy."""
    weight = block.switch_mlp.up_proj["weight"]
    return mx.random.normal((1, 5, weight.shape[2]), key=mx.random.key(0)).astype(weight.dtype)


def _error(kernels: BlockKernels, block: Any) -> float:
    """Return the distance of a block with the kernels from one without, the median of some random rows.

    Not the largest: where two experts' scores are nearly equal, rounding may choose the other one.
    """
    x = _input(block)
    theirs = type(block).__call__
    with on_cuda(products_on_cuda(block)):
        right = theirs(block, x).astype(mx.float32)
    found = block_form(kernels, theirs)(block, x).astype(mx.float32)
    errors = mx.abs(found - right).max(axis=-1) / mx.abs(right).max(axis=-1)
    median: Any = mx.median(errors).item()
    return float(median)
