"""One token a row of a whole gated delta layer, as Qwen3-Next and Qwen3.5 have it, in one kernel, for CUDA.

By itself mlx-lm's layer queues some 25 operations between its input projections and its output projection,
each of which reads and writes a few kilobytes. The state is read and written once here, and all else is
computed beside it; see `kernels/layer_step.h`.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

import mlx.core as mx
import mlx.nn as nn

from ...cache.kv import MIN_KERNEL_ELEMENTS
from ..attention.kernels.layer_kernels import DTYPES, Launch
from ..attention.kernels.source import Kernel
from ..joint_projections import JointPart
from ..pass_functions import Function
from .slot_states import SlotCache

_INPUTS = (
    *("mixed", "gates", "write_gates", "times", "conv_weight", "conv_bias"),
    *("log_rates", "time_bias", "norm_weight", "numbers", "conv_state", "state"),
)
LAYER_STEP = Kernel(
    "layer_step", _INPUTS, ("hidden", "next_conv", "next_state"), files=("layer_rows", "layer_step")
)
SLOT_STEP = Kernel(
    "slot_step",
    (*_INPUTS, "slots_before", "slots_after", "conv_fence", "write_fence"),
    ("hidden", "next_fence"),
    files=("layer_slots", "layer_step"),
)

SEPARATE = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a")
"""Projections of Qwen3.5's layer: to queries, keys and values; to gates; to betas; to times."""

INTERLEAVED = ("in_proj_qkvz", "in_proj_ba")
"""Projections of Qwen3-Next's layer, which gives all of a key head together."""

LAYERS = {
    ("mlx_lm.models.qwen3_next", "Qwen3NextGatedDeltaNet"): INTERLEAVED,
    ("mlx_lm.models.qwen3_5", "GatedDeltaNet"): SEPARATE,
}
"""The projections of mlx-lm's layers that the kernel computes, by the module and name of their class."""

KEY_EPS = 1e-6
"""What mlx-lm's layers add to the squared length of queries and keys."""

MAX_LANES, VECTOR = 8, 4
"""Threads that share a line of the state, at most; elements that each loads at once."""

HELD = 128
"""Elements of the state that a thread holds at once, at most: registers."""

GROUP_THREADS = 256
"""Threads of a group."""


class LayerNumber(IntEnum):
    """Elements of the kernel's `numbers`; the kernel calls them NUMBER_EPS and so on."""

    EPS = 0  # of the norms of queries and keys
    QUERY_SCALE = 1
    KEY_SCALE = 2
    OUT_EPS = 3  # of the norm of what is read


class Projected(NamedTuple):
    """Arrays, (rows, 1, ...), that have the projections in them, and where each projection begins in them."""

    arrays: tuple[mx.array, ...]  # the kernel's `mixed`, `gates`, `write_gates` and `times`
    starts: tuple[int, ...]


class LayerKernel(Protocol):
    """Computes layers of LAYERS."""

    def run(self, layer: Any, inputs: mx.array, cache: Any) -> mx.array | None:
        """Return what `layer` returns, and leave the new state in `cache`; None, unchanged, if not served."""


class LayerStep:
    """Launches the kernel in the place of mlx-lm's layers."""

    def __init__(self, launcher: Callable[[Kernel, float], Launch]) -> None:
        """launcher: declares a kernel to MLX, as PagedKernels does."""
        self._on_rows, self._in_slots = launcher(LAYER_STEP, 0.0), launcher(SLOT_STEP, 0.0)
        self._numbers: dict[tuple[int, float], mx.array] = {}
        self.serves_slots = True  # False where it fails on this device with states in slots

    def run(self, layer: Any, inputs: mx.array, cache: Any) -> mx.array | None:
        """Return what `layer` returns for one token a row, and leave the new state in `cache`.

        layer: one of the classes of LAYERS. inputs: (rows, 1, hidden size). cache: an ArraysCache.
        Returns None, and changes nothing, where the kernel is not made for the layer or its state.
        """
        if not is_served(layer, cache):
            return None
        states = layer_states(cache)
        dtype, (num_rows, _, _) = layer.conv1d.weight.dtype, inputs.shape
        projected = project(layer, inputs)
        if any(array.dtype != dtype for array in (states[0], *projected.arrays)):
            return None
        given = [
            *projected.arrays,
            layer.conv1d.weight,
            layer.conv1d.get("bias", layer.conv1d.weight),
            *(layer.A_log, layer.dt_bias, layer.norm.weight),
            self.numbers_of(layer),
            *states,
        ]
        shared: dict[str, Any] = {
            "template": [("T", dtype), *step_constants(layer, projected.starts).items()],
            "grid": (GROUP_THREADS * layer.num_v_heads, num_rows, 1),
            "threadgroup": (GROUP_THREADS, 1, 1),
        }
        hidden = (num_rows, 1, layer.value_dim)
        if isinstance(cache, SlotCache):
            out, next_fence = self._in_slots(
                inputs=[*given, cache.states.before, cache.states.after, *cache.fences],
                output_shapes=[hidden, (MIN_KERNEL_ELEMENTS,)],
                output_dtypes=[dtype, mx.float32],
                **shared,
            )
            cache.wrote(next_fence)
        else:
            out, cache[0], cache[1] = self._on_rows(
                inputs=given,
                output_shapes=[hidden, *(state.shape for state in states)],
                output_dtypes=[dtype, dtype, mx.float32],
                **shared,
            )
        cache.advance(1)
        result: mx.array = layer.out_proj(out)
        return result

    def numbers_of(self, layer: Any) -> mx.array:
        """Return the kernel's `numbers`."""
        key = (layer.head_k_dim, layer.norm.eps)
        if key not in self._numbers:
            scale = layer.head_k_dim**-0.5
            values = [KEY_EPS * scale**2, scale**2, scale, layer.norm.eps]  # in the order of LayerNumber
            numbers = mx.array(values + [0.0] * (MIN_KERNEL_ELEMENTS - len(LayerNumber)))
            mx.eval(numbers)  # else a compiled pass would make it each time
            self._numbers[key] = numbers
        return self._numbers[key]


def layer_states(cache: Any) -> list[Any]:
    """Return the states of the convolution and of the rule in a cache, or the pools where they lie."""
    return cache.pools if isinstance(cache, SlotCache) else [cache[0], cache[1]]


def is_served(layer: Any, cache: Any) -> bool:
    """Whether the kernel computes a layer whose state is in `cache`."""
    if not has_kernel_form(layer, cache) or cache.lengths is not None:
        return False
    states = layer_states(cache)
    return all(array is not None for array in states) and bool(states[1].dtype == mx.float32)


def has_kernel_form(layer: Any, cache: Any) -> bool:
    """Whether kernels are made for such a layer and such a cache, which may be empty."""
    return not unmet(layer, cache)


def unmet(layer: Any, cache: Any) -> str:
    """Return what keeps kernels from computing a layer with such a cache; "" if nothing."""
    weight, taps = layer.conv1d.weight, layer.conv_kernel_size
    conditions = {
        "no cache": cache is not None,
        "weights on several devices": getattr(layer, "sharding_group", None) is None,
        f"keys of {layer.head_k_dim} elements": layer.head_k_dim % VECTOR == 0,
        f"a convolution of {taps} tokens": taps > 1,
        f"convolution weights of {weight.dtype}": weight.dtype in DTYPES,
        f"convolution weights of {weight.shape}": weight.shape == (layer.conv_dim, taps, 1),
    }
    return next((name for name, is_met in conditions.items() if not is_met), "")


def project(layer: Any, inputs: mx.array) -> Projected:
    """Return a layer's input projections as they are computed: joint ones are not cut."""
    kind = type(layer)
    names = LAYERS[kind.__module__, kind.__name__]
    found = [_located(layer[name], inputs) for name in names]
    if names == INTERLEAVED:
        found = [found[0], found[0], found[1], found[1]]
    return Projected(tuple(array for array, _ in found), tuple(start for _, start in found))


def _located(projection: Any, inputs: mx.array) -> tuple[mx.array, int]:
    return projection.located(inputs) if isinstance(projection, JointPart) else (projection(inputs), 0)


def step_constants(layer: Any, starts: tuple[int, ...] = (0, 0, 0, 0)) -> dict[str, int]:
    """Return the kernel's compile-time constants. starts: see Projected."""
    key_dim, value_dim = layer.head_k_dim, layer.head_v_dim
    dtype, kind = layer.conv1d.weight.dtype, type(layer)
    lanes = next(n for n in (MAX_LANES, 4, 2, 1) if key_dim % (n * VECTOR) == 0)
    subgroups, width = GROUP_THREADS // lanes, key_dim // lanes
    return {
        "KEY_DIM": key_dim,
        "VALUE_DIM": value_dim,
        "KEY_HEADS": layer.num_k_heads,
        "GROUP": layer.num_v_heads // layer.num_k_heads,
        "TAPS": layer.conv_kernel_size,
        "INTERLEAVED": int(LAYERS[kind.__module__, kind.__name__] == INTERLEAVED),
        "HAS_CONV_BIAS": int("bias" in layer.conv1d),
        "WIDE_TIMES": int(layer.dt_bias.dtype != dtype),
        "WIDE_NORM": int(layer.norm.weight.dtype != dtype),
        **dict(zip(("MIXED_AT", "GATES_AT", "BETAS_AT", "TIMES_AT"), starts, strict=True)),
        **{f"NUMBER_{number.name}": number.value for number in LayerNumber},
        "GROUP_THREADS": GROUP_THREADS,
        "LANES": lanes,
        "WIDTH": width,
        "VECTOR": VECTOR,
        "LINES": max(1, min(-(-value_dim // subgroups), HELD // width)),
    }


def layer_form(step: LayerKernel | None, prompt: LayerKernel | None, theirs: Function) -> Function:
    """Return what takes the place of `__call__` of one of the classes of LAYERS.

    step: for one token a row; prompt: for more; None where there is none that works.
    """

    def call(layer: Any, inputs: mx.array, mask: mx.array | None = None, cache: Any = None) -> mx.array:
        kernel = step if inputs.shape[1] == 1 else prompt
        # Kernels know of padding by the cache's lengths; they know no other mask.
        is_known = mask is None or (cache is not None and cache.lengths is not None)
        found = kernel.run(layer, inputs, cache) if kernel is not None and is_known else None
        if found is not None:
            # Where ranks share a layer, each has some of its heads, and a part of the sum.
            group = getattr(layer, "sharding_group", None)
            return found if group is None else mx.distributed.all_sum(found, group=group)
        result: mx.array = theirs(layer, inputs, mask, cache)
        return result

    return call


def find_layers(model: nn.Module) -> dict[type[nn.Module], nn.Module]:
    """Return the classes of LAYERS that `model` has, each with one of its layers."""
    found: dict[type[nn.Module], nn.Module] = {}
    for module in model.modules():
        kind = type(module)
        if (kind.__module__, kind.__name__) in LAYERS:
            found.setdefault(kind, module)
    return found
