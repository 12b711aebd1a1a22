"""Which of mlx-lm's functions a model's passes replace, by the device that runs them."""

import os
import sys
from functools import partial
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .attention.kernels.paged_kernels import PagedKernels, find_kernels
from .experts.block_forms import PARTS, BlockKernels, block_form, block_forms
from .experts.expert_choice import ExpertChoice
from .experts.expert_pairs import ExpertKernels
from .experts.switch_forms import PROJECTIONS, switch_form, usable_experts
from .mended_functions import mended_functions, mended_on_cuda
from .pass_functions import PassFunctions, Replacement
from .recurrent.array_forms import array_delta_form, array_space_form
from .recurrent.convolutions import convolution_form, sum_taps
from .recurrent.delta_chunks import DeltaChunks, usable_chunks
from .recurrent.delta_step import DeltaStep, usable_step
from .recurrent.host_forms import MIN_TOKENS, gated_delta_form, lightning_form, state_space_form
from .recurrent.host_modules import (
    jamba_form,
    linear_scan_form,
    mamba_form,
    rwkv_form,
    silu_form,
    swiglu_form,
)
from .recurrent.host_recurrence import HostRecurrence
from .recurrent.layer_check import usable_layer_step
from .recurrent.layer_prompt import LayerPrompt, usable_layer_prompt
from .recurrent.layer_step import LayerStep, find_layers, layer_form
from .recurrent.space_kernels import SpaceKernels, usable_space_kernels


def find_functions(model: nn.Module, on_host: bool) -> PassFunctions:
    """Return what the passes of `model` replace.

    on_host: whether MLX's device is the CPU, where NumPy computes much.
    """
    if not on_host:
        layer_kernels = _layer_kernels(model)
        found = _functions(model, layer_kernels, _array_forms(model, *layer_kernels))
        return found.beside(mended_functions(model))
    theirs = nn.Conv1d.__call__
    on_cpu = (
        Replacement(nn, "silu", nn.silu, silu_form(nn.silu)),
        Replacement(nn.Conv1d, "__call__", theirs, convolution_form(theirs, sum_taps, MIN_TOKENS)),
    )
    return _functions(model, (None, None), _host_forms()).beside(PassFunctions(on_cpu))


def assumed_functions(model: nn.Module, kernels: PagedKernels) -> PassFunctions:
    """Return what the passes of `model` replace on CUDA if each kernel that may serve it works; none runs."""
    launcher, layers = kernels.launcher, find_layers(model)
    layer_kernels = (LayerStep(launcher), LayerPrompt(launcher)) if layers else (None, None)
    delta = (None, None) if layers else (DeltaStep(launcher), DeltaChunks(launcher))
    experts = ExpertKernels.declare(launcher)
    blocks = BlockKernels(experts, ExpertChoice(launcher))
    forms = {
        "gated_delta_update": partial(array_delta_form, *delta),
        "ssm_update": partial(array_space_form, SpaceKernels(launcher)),
        **{f"{each.__name__}.__call__": partial(switch_form, experts) for each in PROJECTIONS},
        **{f"{each.__name__}.__call__": partial(block_form, blocks) for each in PARTS},
    }
    return _functions(model, layer_kernels, forms).beside(mended_on_cuda(model))


def _functions(
    model: nn.Module, layer_kernels: tuple[LayerStep | None, LayerPrompt | None], forms: dict[str, Any]
) -> PassFunctions:
    """Return the replacements of what the model's modules define. forms: by the functions' paths."""
    names = _module_names(model)
    places = {place: path for path in forms for name in names for place in _find(sys.modules[name], path)}
    found = [Replacement(*place, forms[path](place[-1])) for place, path in places.items()]
    kinds = find_layers(model) if any(layer_kernels) else {}
    for kind in kinds:
        theirs = kind.__call__
        found.append(Replacement(kind, "__call__", theirs, layer_form(*layer_kernels, theirs)))
    step = layer_kernels[0]
    slot_layers = kinds if step is not None and step.serves_slots else {}
    return PassFunctions(tuple(found), sum(type(module) in slot_layers for module in model.modules()))


def _module_names(model: nn.Module) -> list[str]:
    """Return the names of the Python modules that define the model's classes."""
    return sorted({type(module).__module__ for module in model.modules()})


def _find(module: ModuleType, path: str) -> list[tuple[Any, str, Any]]:
    """Return owner, name and value of a function of the module or of one of its classes; none if it has none.

    path: a name, or a class's name, a point and a name.
    """
    class_name, _, name = path.rpartition(".")
    owner = getattr(module, class_name, None) if class_name else module
    is_own = owner is not None and name in vars(owner)
    return [(owner, name, getattr(owner, name))] if is_own else []


def _layer_kernels(model: nn.Module) -> tuple[LayerStep | None, LayerPrompt | None]:
    """Return the kernels of the model's gated delta layers on CUDA: for one token a row, and for more."""
    layers = list(find_layers(model).values())
    kernels = find_kernels() if layers and not mx.metal.is_available() else None
    if kernels is None:
        return None, None
    launcher = kernels.launcher
    return usable_layer_step(launcher, layers), usable_layer_prompt(launcher, layers)


def _array_forms(
    model: nn.Module, layer_step: LayerStep | None, layer_prompt: LayerPrompt | None
) -> dict[str, Any]:
    """Return what takes the place of a function on a GPU: where mlx-lm would take a prompt token by token.

    On CUDA also where it would read an expert's weights once for each token.
    layer_step, layer_prompt: kernels that take whole layers; such for the rule alone are then not compiled.
    """
    kernels = None if mx.metal.is_available() else find_kernels()
    if kernels is None:
        return {"gated_delta_update": partial(array_delta_form, None, None)}
    has_deltas, has_spaces = (_has(model, name) for name in ("gated_delta_update", "ssm_update"))
    step = usable_step(kernels.launcher) if has_deltas and layer_step is None else None
    chunks = usable_chunks(kernels.launcher) if has_deltas and layer_prompt is None else None
    spaces = usable_space_kernels(kernels.launcher) if has_spaces else None
    return {
        "gated_delta_update": partial(array_delta_form, step, chunks),
        **({} if spaces is None else {"ssm_update": partial(array_space_form, spaces)}),
        **_expert_forms(model, kernels),
    }


def _has(model: nn.Module, name: str) -> bool:
    """Whether the modules that define the model's classes have a function of this name."""
    return any(_find(sys.modules[module], name) for module in _module_names(model))


def _expert_forms(model: nn.Module, kernels: PagedKernels) -> dict[str, Any]:
    """Return what takes the place of mixture-of-experts layers on CUDA."""
    experts = usable_experts(kernels.launcher, model)
    if experts is None:
        return {}
    form = partial(switch_form, experts)
    blocks = block_forms(kernels.launcher, experts, model)
    return {"SwitchGLU.__call__": form, "SwitchMLP.__call__": form, **blocks}


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
