"""From a model's folder to a runner: the plan, then the load and the checks.

The functions run in the engine's process; the server's imports them to name them.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import SYSTEM_BLAS
from ..attention.paged import probe
from ..blas import describe_blas
from ..config import EngineConfig
from ..runner import Runner
from ..selfcheck import disagreement, usable_kernels
from ..served_model import ServedModel
from .loader import compute_dtype, load
from .memory_plan import bound_buffer_cache, find_device, make_plan
from .model_info import inspect
from .weights import ModelError


def plan_model(path: Path, config: EngineConfig) -> ServedModel:
    """Find out what the model in `path` is, and what fits on this device. Raises ModelError."""
    info = inspect(path, config.model.rstrip("/"), compute_dtype(), config.kv_bits)
    return ServedModel(info, make_plan(info, config, find_device()), describe_blas(SYSTEM_BLAS))


def build(planned: ServedModel, config: EngineConfig) -> tuple[Runner, ServedModel]:
    """Load a planned model, check it on this device, and allocate its KV. Raises ModelError."""
    bound_buffer_cache()
    loaded = load(planned.info)
    device = planned.memory.device  # as it was found first: a second build must come to the same plan
    served = replace(planned, info=loaded.info, memory=make_plan(loaded.info, config, device))
    runner = build_runner(loaded.model, served)
    return runner, replace(served, attention=runner.backend)


def build_runner(model: Any, served: ServedModel) -> Runner:
    """Check paged attention against mlx-lm's own on this model and device, then allocate the KV pools."""
    on_host, kv_bits = served.memory.device.kind == "cpu", served.info.kv_bits
    try:
        distance = disagreement(model, served.vocab_size, on_host, kv_bits=kv_bits)
    except (NotImplementedError, ValueError) as error:
        raise ModelError(f"{served.name} needs {error}; not supported yet") from error
    if not distance <= 1:  # not >: NaN must fail
        raise ModelError(f"{served.name} computes wrongly on paged KV; not supported yet")
    kernels = None if on_host else usable_kernels(model, served.vocab_size, kv_bits)
    return Runner(model, served.memory.num_blocks, on_host, kernels, probe(model, kv_bits))
