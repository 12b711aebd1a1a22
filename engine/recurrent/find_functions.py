"""Which of mlx-lm's functions a model's passes replace, by the device that runs them."""

import os
import sys
from functools import partial
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..attention.kernels.paged_kernels import find_kernels
from ..pass_functions import PassFunctions, Replacement
from .array_forms import array_delta_form
from .delta_step import usable_step
from .host_forms import gated_delta_form, lightning_form, state_space_form
from .host_modules import (
    convolution_form,
    jamba_form,
    linear_scan_form,
    mamba_form,
    rwkv_form,
    silu_form,
    swiglu_form,
)
from .host_recurrence import HostRecurrence


def find_functions(model: nn.Module, on_host: bool) -> PassFunctions:
    """Return what the passes of `model` replace.

    on_host: whether MLX's device is the CPU, where NumPy computes much.
    """
    forms = _host_forms() if on_host else _array_forms()
    names = sorted({type(module).__module__ for module in model.modules()})
    places = [(path, place) for path in forms for name in names for place in _find(sys.modules[name], path)]
    found = [Replacement(owner, name, theirs, forms[path](theirs)) for path, (owner, name, theirs) in places]
    if on_host:
        found.append(Replacement(nn, "silu", nn.silu, silu_form(nn.silu)))
        convolve = nn.Conv1d.__call__
        found.append(Replacement(nn.Conv1d, "__call__", convolve, convolution_form(convolve)))
    return PassFunctions(tuple(found))


def _find(module: ModuleType, path: str) -> list[tuple[Any, str, Any]]:
    """Return owner, name and value of a function of the module or of one of its classes; none if it has none.

    path: a name, or a class's name, a point and a name.
    """
    class_name, _, name = path.rpartition(".")
    owner = getattr(module, class_name, None) if class_name else module
    is_own = owner is not None and name in vars(owner)
    return [(owner, name, getattr(owner, name))] if is_own else []


def _array_forms() -> dict[str, Any]:
    """Return what takes the place of a function on a GPU: where mlx-lm would take a prompt token by token."""
    kernels = None if mx.metal.is_available() else find_kernels()
    kernel = None if kernels is None else usable_step(kernels.launcher)
    return {"gated_delta_update": partial(array_delta_form, kernel)}


def _host_forms() -> dict[str, Any]:
    """Return what takes the place of a function on the CPU device, by the function's name."""
    recurrence = HostRecurrence(os.cpu_count() or 1)
    return {
        "gated_delta_update": partial(gated_delta_form, recurrence),
        "ssm_update": partial(state_space_form, recurrence),
        "recurrent_gla": partial(lightning_form, recurrence),
        "rnn_scan": linear_scan_form,
        "JambaMambaMixer.ssm_step": jamba_form,
        "Rwkv7TimeMixing._wkv7": partial(rwkv_form, recurrence),
        "MambaBlock._process_sequence": mamba_form,
        "swiglu": swiglu_form,
    }
