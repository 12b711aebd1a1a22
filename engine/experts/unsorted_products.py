"""Products of experts that MLX computes wrongly on CUDA (0.32.4): those of sorted rows.

Of a tiny gpt_oss whole answers were wrong where `mx.gather_mm` was told that rows are sorted, and all right
with the same products of the same rows when it was not. Its weights are not quantised.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchLinear

from ..pass_functions import Function, PassFunctions, Replacement


def products_on_cuda(model: nn.Module) -> PassFunctions:
    """Return the replacement of the products of `model` and its parts, if it has experts."""
    if not any(type(module) is SwitchLinear for module in model.modules()):
        return PassFunctions()
    theirs = SwitchLinear.__call__
    return PassFunctions((Replacement(SwitchLinear, "__call__", theirs, unsorted_form(theirs)),))


def unsorted_form(theirs: Function) -> Function:
    """Return the form of `SwitchLinear.__call__` that multiplies sorted rows as it does others."""

    def call(self: Any, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        result: mx.array = theirs(self, x, indices)
        return result

    return call
