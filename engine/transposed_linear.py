"""Linear layers that keep their weights' transpose: a matmul is then one node of MLX's graph, not four.

For each matmul of activations (rows, length, inputs) with weights (outputs, inputs), mlx-lm's layers make a
transpose, and MLX flattens the activations and restores the result's axes. All of these are views, which
compute nothing, but the host takes about 1 us for each. Weights that are a view (rows, inputs, outputs), made
once for each number of rows, leave the matmul alone; MLX's backends make one matmul of all rows again.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn


class Columns:
    """Views of weights (outputs, inputs) as (rows, inputs, outputs), made once for each number of rows."""

    def __init__(self, weight: mx.array) -> None:
        self._weight = weight
        self._views: dict[int, mx.array] = {}

    def of(self, num_rows: int) -> mx.array:
        """Return the view for `num_rows` rows."""
        if num_rows not in self._views:
            view = mx.broadcast_to(self._weight.T, (num_rows, *self._weight.shape[::-1]))
            mx.eval(view)
            self._views[num_rows] = view
        return self._views[num_rows]


class TransposedLinear(nn.Module):
    """Stands for a linear layer without bias."""

    def __init__(self, own: Any) -> None:
        """own: the layer itself, an nn.Linear without bias."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.own = own
        self._columns = Columns(own.weight)

    def __call__(self, x: mx.array) -> mx.array:
        """Return the layer's output, (..., outputs)."""
        out: mx.array = x @ self._columns.of(len(x)) if x.ndim == 3 else self.own(x)
        return out


def transpose_linears(model: nn.Module) -> int:
    """Put TransposedLinears in the place of the model's linear layers without bias; return their number.

    Layers of subclasses and quantised ones stay, and all stay where the model reads more of a layer than its
    output, which a trial pass finds out without computing anything.
    """
    places = [
        (module, name)
        for module in model.modules()
        for name, child in module.items()
        if type(child) is nn.Linear and "bias" not in child
    ]
    for module, name in places:
        module[name] = TransposedLinear(module[name])
    try:
        model(mx.zeros((1, 1), mx.int32))
    except Exception:
        for module, name in places:
            module[name] = module[name].own
        return 0
    return len(places)
