"""Products of pairs of token and expert, by kernels for few of them or for many."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import mlx.core as mx

from ..attention.kernels.layer_kernels import Launch
from .expert_products import MAX_PAIRS, ExpertProducts, serves
from .grouped_products import GroupedProducts, serves_tiles


class Pairs(Protocol):
    """Pairs of token and expert, whose products are computed in an order of their own in between."""

    @property
    def experts(self) -> mx.array:
        """The experts in the order in between, (pairs,)."""

    def gated(self, inputs: mx.array, gate: mx.array, up: mx.array) -> mx.array:
        """Return silu(inputs * gate) * (inputs * up) in the order in between; see ExpertProducts."""

    def multiply(self, inputs: mx.array, weights: mx.array) -> mx.array:
        """Return inputs, of the pairs' own order, times weights, in the order in between."""

    def multiply_back(self, inputs: mx.array, weights: mx.array) -> mx.array:
        """Return inputs, of the order in between, times weights, in the pairs' own order."""


class FewPairs:
    """At most MAX_PAIRS pairs, in one order."""

    def __init__(self, products: ExpertProducts, experts: mx.array) -> None:
        self.experts = experts
        self._products = products

    def gated(self, inputs: mx.array, gate: mx.array, up: mx.array) -> mx.array:
        """See Pairs."""
        return self._products.gated(inputs, gate, up, self.experts)

    def multiply(self, inputs: mx.array, weights: mx.array) -> mx.array:
        """See Pairs."""
        return self._products.multiply(inputs, weights, self.experts)

    multiply_back = multiply


class ManyPairs:
    """Any number of pairs, in between sorted by expert."""

    def __init__(self, products: GroupedProducts, experts: mx.array, num_experts: int) -> None:
        self._products = products
        self._own = experts
        self._groups = products.group(experts, num_experts)

    @property
    def experts(self) -> mx.array:
        """See Pairs."""
        return self._own[self._groups.order]

    def gated(self, inputs: mx.array, gate: mx.array, up: mx.array) -> mx.array:
        """See Pairs."""
        return self._products.gated(inputs, gate, up, self._groups)

    def multiply(self, inputs: mx.array, weights: mx.array) -> mx.array:
        """See Pairs."""
        return self._products.multiply(inputs, weights, self._groups)

    def multiply_back(self, inputs: mx.array, weights: mx.array) -> mx.array:
        """See Pairs."""
        return self._products.multiply_back(inputs, weights, self._groups)


class ExpertKernels(NamedTuple):
    """The kernels that compute the products of experts on this device."""

    few: ExpertProducts
    many: GroupedProducts | None  # None: they do not work here

    @classmethod
    def declare(cls, launcher: Callable[..., Launch]) -> "ExpertKernels":
        """Declare all kernels to MLX. launcher: as that of PagedKernels."""
        return cls(ExpertProducts(launcher), GroupedProducts(launcher))

    def serve(self, weights: list[mx.array], num_pairs: int) -> bool:
        """Whether the kernels multiply so many pairs by all of `weights`, each (experts, outputs, size)."""
        if not all(map(serves, weights)) or len({each.dtype for each in weights}) > 1:
            return False
        return num_pairs <= MAX_PAIRS or (self.many is not None and all(map(serves_tiles, weights)))

    def pairs(self, experts: mx.array, num_experts: int) -> Pairs:
        """Return pairs that are served. experts: (pairs,), integers."""
        if len(experts) <= MAX_PAIRS:
            return FewPairs(self.few, experts)
        assert self.many is not None
        return ManyPairs(self.many, experts, num_experts)
