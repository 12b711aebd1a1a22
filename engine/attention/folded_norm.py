"""Norms whose factors are computed once: Gemma's norms add one to their weights in every pass."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn


class FoldedNorm(nn.Module):
    """Stands for an RMS norm whose factors are its weights plus one."""

    def __init__(self, own: Any) -> None:
        """own: the norm itself."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.own = own
        self._factors = 1.0 + own.weight
        mx.eval(self._factors)

    @property
    def weight(self) -> mx.array:
        """The factors, as nn.RMSNorm calls them."""
        factors: mx.array = self._factors
        return factors

    @property
    def eps(self) -> float:
        """What is added to the mean of the squares."""
        eps: float = self.own.eps
        return eps

    def __call__(self, x: mx.array) -> mx.array:
        """Return the norm's output."""
        return mx.fast.rms_norm(x, self._factors, self.eps)


def fold_norms(model: nn.Module) -> int:
    """Put FoldedNorms in the place of norms that compute exactly the same; return their number."""
    folded = 0
    for module in list(model.modules()):
        for name, child in list(module.items()):
            if _may_add_one(child) and _computes(child, norm := FoldedNorm(child)):
                module[name] = norm
                folded += 1
    return folded


def _may_add_one(norm: Any) -> bool:
    """Whether a module is an RMS norm of a model's own, with one vector of weights."""
    if not isinstance(norm, nn.Module) or type(norm) is nn.RMSNorm or "RMSNorm" not in type(norm).__name__:
        return False
    return (
        set(norm) == {"weight"} and norm["weight"].ndim == 1 and isinstance(getattr(norm, "eps", None), float)
    )


def _computes(norm: Any, folded: FoldedNorm) -> bool:
    """Whether both give the same output, to the bit, for some random inputs, small and large ones."""
    weight = norm["weight"]
    x = mx.random.normal((2, 3, len(weight)), key=mx.random.key(0)) * mx.array([[[1e-3]], [[30.0]]])
    # Weights in float32 may stand beside half precision, whose type a norm may restore.
    types = {weight.dtype, mx.bfloat16} if weight.dtype == mx.float32 else {weight.dtype}
    try:
        return all(_agree(norm(x.astype(each)), folded(x.astype(each))) for each in types)
    except Exception:  # a norm of another form
        return False


def _agree(a: mx.array, b: mx.array) -> bool:
    return a.dtype == b.dtype and bool((a == b).all())
