"""Functions of mlx-lm that others take the place of while the engine runs a model, and only then.

A model's module calls `gated_delta_update`, `swiglu` and the like as names of its own or of its classes.
Outside of the engine's passes they are mlx-lm's, so that the self-check compares with mlx-lm itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

Function = Callable[..., Any]
"""A function or method of mlx-lm's, or another in its place."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """A function that is called by a name of `owner`, a module or a class, and another that does the same."""

    owner: Any
    name: str
    theirs: Function
    ours: Function


class PassFunctions:
    """Puts functions in their places for the time of a `with` block; not for several threads at a time."""

    def __init__(self, replacements: tuple[Replacement, ...] = (), num_slot_layers: int = 0) -> None:
        """num_slot_layers: recurrent layers whose decode steps read and write states in their slots."""
        self.replacements = replacements
        self.num_slot_layers = num_slot_layers

    def beside(self, others: "PassFunctions") -> "PassFunctions":
        """Return the replacements of both."""
        count = self.num_slot_layers + others.num_slot_layers
        return PassFunctions(self.replacements + others.replacements, count)

    def __enter__(self) -> None:
        for each in self.replacements:
            setattr(each.owner, each.name, each.ours)

    def __exit__(self, *_: object) -> None:
        for each in reversed(self.replacements):
            setattr(each.owner, each.name, each.theirs)


def on_cuda(functions: PassFunctions) -> PassFunctions:
    """Return `functions` where MLX's device is CUDA, and no replacement elsewhere."""
    is_cuda = mx.default_device() == mx.Device(mx.gpu) and not mx.metal.is_available()
    return functions if is_cuda else PassFunctions()
