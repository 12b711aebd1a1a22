"""Whether the kernel of gated delta layers computes what mlx-lm's layers compute, on this device."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import ArraysCache

from ...cache.kv import MIN_KERNEL_ELEMENTS
from ..attention.kernels.layer_kernels import Launcher
from .layer_step import LayerKernel, LayerStep, unmet
from .slot_states import SlotCache, SlotStates
from .state_mover import StateMover, slot_index

logger = logging.getLogger(__name__)

TOLERANCE = {mx.float32: 2e-3, mx.float16: 1e-2, mx.bfloat16: 5e-2}
"""How far the kernel's results may lie from mlx-lm's, by type, relative to the largest of them."""

BEFORE, AFTER = [0, 2, 4], [5, 1, 3]
"""Slots of the rows of the check."""

K = TypeVar("K", bound=LayerKernel)


def usable_layer_step(launcher: Launcher, layers: list[Any]) -> LayerStep | None:
    """Return the kernel if it computes what mlx-lm's `layers` compute, on this device; warn if not."""
    mover = StateMover(launcher)
    return usable_layer_kernel(lambda: LayerStep(launcher), layers, 1, mover)


def usable_layer_kernel(
    make: Callable[[], K], layers: list[Any], num_tokens: int, mover: StateMover | None = None
) -> K | None:
    """Return a kernel if it computes what mlx-lm's `layers` compute, on this device; warn if not.

    num_tokens: of each row of the check. mover: of states that the kernel reads in their slots as well.
    """
    what = "one token" if num_tokens == 1 else "prompts"
    try:
        kernel = make()
        errors = [_error(kernel, layer, num_tokens, mover) for layer in layers]
        bounds = [TOLERANCE[layer.conv1d.weight.dtype] for layer in layers]
        if all(error <= bound for error, bound in zip(errors, bounds, strict=True)):
            return kernel
        logger.warning("the kernel of gated delta layers for %s computes wrongly here and is not used", what)
    except Exception as exception:  # all that a compiler or driver raises
        logger.warning("the kernel of gated delta layers for %s cannot be used here: %s", what, exception)
    return None


def _error(kernel: LayerKernel, layer: Any, num_tokens: int, mover: StateMover | None) -> float:
    """Return the largest distance between the kernel and mlx-lm's layer on random rows."""
    dtype, num_rows = layer.conv1d.weight.dtype, len(BEFORE)
    shape = (num_rows, num_tokens, layer.hidden_size)
    inputs = mx.random.normal(shape, key=mx.random.key(0)).astype(dtype)
    sizes = (layer.num_v_heads, layer.head_v_dim, layer.head_k_dim)
    conv = mx.random.normal((6, layer.conv_kernel_size - 1, layer.conv_dim), key=mx.random.key(1))
    pools = [conv.astype(dtype), mx.random.normal((6, *sizes), key=mx.random.key(2))]
    ours, theirs = ArraysCache(2), ArraysCache(2)
    for cache in (ours, theirs):
        for place, pool in enumerate(pools):
            cache[place] = pool[mx.array(BEFORE)]
    mx.eval(pools, ours.cache, theirs.cache)  # before the kernel writes to the pools
    expected = [layer(inputs, None, theirs), *theirs.cache]
    found = [kernel.run(layer, inputs, ours), *ours.cache]
    if mover is not None:
        found += _found_in_slots(kernel, layer, inputs, pools, mover)
        expected += expected
    if any(array is None for array in found):
        raise NotImplementedError(unmet(layer, ours) or "projections of several types")
    pairs = zip(found, expected, strict=True)
    return float(np.max([_distance(a, b) for a, b in pairs]))  # NaN if any is NaN, which `max` would lose


def _found_in_slots(
    kernel: LayerKernel, layer: Any, inputs: mx.array, pools: list[mx.array], mover: StateMover
) -> list[Any]:
    """Return what the kernel returns for rows whose states lie in slots of `pools`, and the new states."""
    fences = [mx.zeros((MIN_KERNEL_ELEMENTS,)) for _ in pools]
    before, after = slot_index(BEFORE), slot_index(AFTER)
    given = SlotStates(mover, len(BEFORE), pools, fences, before, after)
    found = kernel.run(layer, inputs, SlotCache(given, [0, 1]))
    kept = SlotCache(SlotStates(mover, len(AFTER), pools, given.fences, after, before), [0, 1])
    return [found, kept[0], kept[1]]


def _distance(a: Any, b: Any) -> float:
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    return float(mx.abs(a - b).max() / mx.abs(b).max())
