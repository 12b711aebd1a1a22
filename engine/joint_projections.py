"""Computes linear layers of the same input as one: a decode step then has fewer operations.

The host takes about 10 us to queue an operation of a decode step, on CUDA more for a matmul of several rows,
because MLX asks cuBLAS for its algorithm each time. The weights are read in the same time either way. The
joint weights take the place of the single ones, which become views of them, so that no memory is added. What
a view of a joint result costs depends on its reader: element-wise operations read the view as it is, a norm
and most kernels copy it first.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .transposed_linear import TransposedLinear

Names = tuple[str, ...]
"""The names, in one module, of layers that may have the same input."""

GATE_AND_UP: Names = ("gate_proj", "up_proj")

MAX_JOINT_ROWS = 64
"""Most rows of an input that is multiplied by joint weights. With more, the device takes longer than the
host, and the results of single matmuls need no copy."""

TYPES = (nn.Linear, nn.QuantizedLinear)

Linear = Any
"""A layer of one of TYPES."""


@dataclass(eq=False, slots=True)
class Joint:
    """Linear layers as one. Its result is kept until every layer has got its part."""

    layer: Linear
    bounds: list[int]  # of the layers' parts along the last axis: 0, ..., size of the whole
    num_results: int = 0
    _input: mx.array | None = None
    _result: mx.array | None = None
    _missing: set[int] = field(default_factory=set)

    @property
    def is_complete(self) -> bool:
        """Whether every layer has got its part of the last result."""
        return not self._missing

    def part(self, index: int, x: mx.array) -> mx.array:
        """Return the output of layer `index` for the input `x`."""
        return self.whole(index, x)[..., self.bounds[index] : self.bounds[index + 1]]

    def whole(self, index: int, x: mx.array) -> mx.array:
        """Return the outputs of all layers for the input `x`, of which layer `index` gets its part."""
        if self._result is None or x is not self._input or index not in self._missing:
            self._input, self._result = x, self.layer(x)
            self._missing = set(range(len(self.bounds) - 1))
            self.num_results += 1
        result = self._result
        self._missing.discard(index)
        if self.is_complete:
            self._input = self._result = None
        return result


class JointPart(nn.Module):
    """Stands for a linear layer: takes its output from a joint result where the input has few rows."""

    def __init__(self, own: Linear, joint: Joint, index: int) -> None:
        """own: the layer itself. index: its place among the layers of `joint`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.own = own
        self._joint = joint
        self._index = index

    def __call__(self, x: mx.array) -> mx.array:
        """Return the layer's output, (..., size)."""
        if x.size > MAX_JOINT_ROWS * x.shape[-1]:
            own: mx.array = self.own(x)
            return own
        return self._joint.part(self._index, x)

    def located(self, x: mx.array) -> tuple[mx.array, int]:
        """Return an array that has the layer's output in it, and where that begins along the last axis."""
        if x.size > MAX_JOINT_ROWS * x.shape[-1]:
            return self.own(x), 0
        return self._joint.whole(self._index, x), self._joint.bounds[self._index]


def join_projections(
    model: nn.Module, names: Names = GATE_AND_UP, among: Iterable[nn.Module] | None = None
) -> int:
    """Join the layers called `names` of each module that has them; return the number of modules changed.

    The model must give the very same array to all of these layers: a trial pass on one token, which computes
    nothing, finds out. Layers that differ from most in type, precision or bias stay as they are, and so do
    subclasses. among: the modules looked at; None for all of the model's.
    """
    joints: list[tuple[nn.Module, Names, Joint]] = []
    for module in list(model.modules()) if among is None else among:
        alike = _alike(module, names)
        if len(alike) > 1:
            joints.append((module, alike, _join([module[name] for name in alike])))
    for module, alike, joint in joints:
        for index, name in enumerate(alike):
            module[name] = JointPart(module[name], joint, index)
    try:
        model(mx.zeros((1, 1), mx.int32))
        has_failed = False
    except Exception:  # a model that reads more of a layer than its output
        has_failed = True
    joined = 0
    for module, alike, joint in joints:
        layers = [module[name].own for name in alike]
        if not has_failed and joint.num_results == 1 and joint.is_complete:
            _share_weights(joint, layers)
            joined += 1
            continue
        for name, layer in zip(alike, layers, strict=True):
            module[name] = layer
    return joined


def _alike(module: nn.Module, names: Names) -> Names:
    """Return the names of the most layers that may be parts of one: of one type, precision and input size."""
    forms = {name: _form(module[name]) for name in names if type(module.get(name)) in TYPES}
    groups = [tuple(other for other in forms if forms[other] == form) for form in forms.values()]
    return max(groups, key=len, default=())


def _form(layer: Linear) -> Any:
    """Return what layers must have in common to be parts of one."""
    arrays = {name: (array.dtype, array.shape[1:]) for name, array in layer.items()}
    return type(layer), arrays, *(getattr(layer, name, None) for name in ("group_size", "bits", "mode"))


def _join(layers: list[Linear]) -> Joint:
    """Make one layer of several; lazy."""
    joint = copy.copy(layers[0])
    for name in layers[0]:
        joint[name] = mx.concatenate([layer[name] for layer in layers])
    bounds = [0]
    for layer in layers:
        bounds.append(bounds[-1] + layer["weight"].shape[0])
    return Joint(joint, bounds)


def _share_weights(joint: Joint, layers: list[Linear]) -> None:
    """Compute the joint weights and let the layers' own be views of them, which frees the layers' arrays."""
    mx.eval(dict(joint.layer))
    joint.num_results = 0
    for layer, start, end in zip(layers, joint.bounds, joint.bounds[1:], strict=False):
        for name in joint.layer:
            layer[name] = joint.layer[name][start:end]
        mx.eval(dict(layer))
    if type(joint.layer) is nn.Linear and "bias" not in joint.layer:
        joint.layer = TransposedLinear(joint.layer)
