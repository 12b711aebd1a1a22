"""Whether the kernel of gated delta layers computes what mlx-lm's layers compute, on this device."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import ArraysCache

from ...cache.kv import MIN_KERNEL_ELEMENTS
from ..attention.kernels.layer_kernels import Launcher
from ..pass_functions import on_cuda
from .convolutions import convolutions_on_cuda
from .layer_step import LayerKernel, LayerStep, unmet
from .slot_states import SlotCache, SlotStates
from .state_mover import StateMover, slot_index

logger = logging.getLogger(__name__)

TOLERANCE = {mx.float32: 2e-3, mx.float16: 1e-2, mx.bfloat16: 5e-2}
"""How far the kernel's results may lie from mlx-lm's, by type, relative to the largest of them."""

BEFORE, AFTER = [0, 2, 4], [5, 1, 3]
"""Slots of the rows of the check."""

K = TypeVar("K", bound=LayerKernel)


class _InSlots:
    """Runs a kernel on rows whose states are put into slots, and got from others."""

    def __init__(self, kernel: LayerStep, mover: StateMover) -> None:
        self._kernel, self._mover = kernel, mover

    def run(self, layer: Any, inputs: mx.array, cache: Any) -> mx.array | None:
        """Do what the kernel does for a cache that has the rows themselves."""
        pools = [mx.repeat(rows, 2, axis=0) for rows in (cache[0], cache[1])]
        mx.eval(pools)  # before the kernel writes to them
        fences = [mx.zeros((MIN_KERNEL_ELEMENTS,)) for _ in pools]
        before, after = slot_index(BEFORE), slot_index(AFTER)
        given = SlotStates(self._mover, len(BEFORE), pools, fences, before, after)
        found = self._kernel.run(layer, inputs, SlotCache(given, [0, 1]))
        kept = SlotCache(SlotStates(self._mover, len(AFTER), pools, given.fences, after, before), [0, 1])
        cache[0], cache[1] = kept[0], kept[1]
        return found


def usable_layer_step(launcher: Launcher, layers: list[Any]) -> LayerStep | None:
    """Return the kernel if it computes what mlx-lm's `layers` compute, on this device; warn if not.

    Where it does so with rows of states alone, it serves no states in slots.
    """
    kernel = usable_layer_kernel(lambda: LayerStep(launcher), layers, (1, 0), "one token")
    if kernel is not None:
        in_slots = _InSlots(kernel, StateMover(launcher))
        kernel.serves_slots = (
            usable_layer_kernel(lambda: in_slots, layers, (1, 0), "states in slots") is not None
        )
    return kernel


def usable_layer_kernel(
    make: Callable[[], K], layers: list[Any], sizes: tuple[int, int], what: str
) -> K | None:
    """Return a kernel if it computes what mlx-lm's `layers` compute, on this device; warn if not.

    sizes: tokens of each row of the check, and padding behind them. what: the kernel computes, for people to
    read.
    """
    try:
        kernel = make()
        errors = [_error(layer_trial(kernel, layer, *sizes)) for layer in layers]
        bounds = [TOLERANCE[layer.conv1d.weight.dtype] for layer in layers]
        if all(error <= bound for error, bound in zip(errors, bounds, strict=True)):
            return kernel
        logger.warning("the kernel of gated delta layers for %s computes wrongly here and is not used", what)
    except Exception as exception:  # all that a compiler or driver raises
        logger.warning("the kernel of gated delta layers for %s cannot be used here: %s", what, exception)
    return None


def layer_trial(kernel: LayerKernel, layer: Any, num_tokens: int, padding: int = 0) -> list[tuple[Any, Any]]:
    """Return what the kernel and what mlx-lm's layer return for random rows, and both states, lazy.

    num_tokens: of each row. padding: that the kernel gets behind them.
    Raises NotImplementedError for a layer that the kernel is not made for.
    """
    dtype, num_rows = layer.conv1d.weight.dtype, len(BEFORE)
    shape = (num_rows, num_tokens, layer.hidden_size)
    inputs = mx.random.normal(shape, key=mx.random.key(0)).astype(dtype)
    conv_shape = (num_rows, layer.conv_kernel_size - 1, layer.conv_dim)
    state_shape = (num_rows, layer.num_v_heads, layer.head_v_dim, layer.head_k_dim)
    conv = mx.random.normal(conv_shape, key=mx.random.key(1)).astype(dtype)
    ours, theirs = ArraysCache(2), ArraysCache(2)
    for cache in (ours, theirs):
        cache[0], cache[1] = conv, mx.random.normal(state_shape, key=mx.random.key(2))
    if padding:
        ours.prepare(lengths=[num_tokens] * num_rows)
    padded = mx.pad(inputs, [(0, 0), (0, padding), (0, 0)], constant_values=1.0)
    found = kernel.run(layer, padded, ours)
    with on_cuda(convolutions_on_cuda(layer)):
        expected = layer(inputs, None, theirs)
    if found is None:
        raise NotImplementedError(unmet(layer, theirs) or "types or sizes that it is not made for")
    return [(found[:, :num_tokens], expected), *zip(ours.cache, theirs.cache, strict=True)]


def _error(pairs: list[tuple[Any, Any]]) -> float:
    """Return the largest distance between the two of a pair."""
    return float(np.max([_distance(a, b) for a, b in pairs]))  # NaN if any is NaN, which `max` would lose


def _distance(a: Any, b: Any) -> float:
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    return float(mx.abs(a - b).max() / mx.abs(b).max())
