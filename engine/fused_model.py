"""Prepares an mlx-lm model for decode passes of few operations, which the host queues in less time."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn

from .attention.defer_rotations import defer_rotations
from .attention.folded_norm import FoldedNorm, fold_norms
from .attention.paged_model import PagedModel
from .attention.rotation import Deferrable, Deferral
from .experts.switch_forms import lay_out_experts
from .joint_projections import JointPart, join_projections
from .recurrent.layer_step import LAYERS
from .transposed_linear import TransposedLinear, transpose_linears

HEADS = ("q_proj", "k_proj", "v_proj")
"""Projections to queries, keys and values."""


def fuse(paged: PagedModel) -> PagedModel:
    """Fold norms, defer rotations, join projections, transpose weights and lay out experts, see there.

    The model's layers change, but not what they compute. What an earlier call has changed is undone first.

    Queries, keys and values become parts of one matrix where the kernel that rotates them reads them first:
    MLX would copy each of them for most other readers.
    """
    unfuse(paged.model)
    fold_norms(paged.model)
    deferred = defer_rotations(paged)
    join_projections(paged.model)
    join_projections(paged.model, HEADS, deferred.modules)
    if not mx.metal.is_available():  # a kernel reads them where they are, see layer_step.py
        for kind, names in LAYERS.items():
            layers = [m for m in paged.model.modules() if (type(m).__module__, type(m).__name__) == kind]
            join_projections(paged.model, names, layers)
    transpose_linears(paged.model)
    lay_out_experts(paged.model)
    return deferred.paged


def without_rotations(paged: PagedModel) -> PagedModel:
    """Return the model with its norms and rotations left to itself in every pass."""
    layers = [replace(spec, rotation=None) for spec in paged.layers]
    return replace(paged, layers=layers, deferral=Deferral())


def unfuse(model: nn.Module) -> None:
    """Give a model back the layers that `fuse` has replaced."""
    for module in list(model.modules()):
        for name, child in list(module.items()):
            own = child
            while isinstance(own, JointPart | Deferrable | TransposedLinear | FoldedNorm):
                own = own.own
            if own is not child:
                module[name] = own
