"""From a model's folder to a runner: first the plan, then the load and the checks.

The functions run in the engine's process; the server's process imports them to name them.
"""

from dataclasses import dataclass
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
from .memory_plan import MemoryPlan, bound_buffer_cache, find_device, make_plan
from .model_info import ModelInfo, inspect
from .weights import ModelError


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model whose weights are not loaded yet, and how it would fit on this device."""

    info: ModelInfo
    memory: MemoryPlan
    blas: str  # what MLX's CPU device multiplies with


def plan_model(path: Path, config: EngineConfig) -> PlannedModel:
    """Find out what the model in `path` is, and what fits on this device. Raises ModelError."""
    info = inspect(path, config.model.rstrip("/"), compute_dtype(), config.kv_bits)
    return PlannedModel(info, make_plan(info, config, find_device()), describe_blas(SYSTEM_BLAS))


def build(planned: PlannedModel, config: EngineConfig) -> tuple[Runner, ServedModel]:
    """Load a planned model, check it on this device, and allocate its KV. Raises ModelError."""
    bound_buffer_cache()
    loaded = load(planned.info)
    # The device as it was found first: a second build must come to the same plan.
    memory = make_plan(loaded.info, config, planned.memory.device)
    runner = _build_runner(loaded.model, loaded.info, memory)
    return runner, _describe(loaded.info, memory, runner.backend)


def _build_runner(model: Any, info: ModelInfo, memory: MemoryPlan) -> Runner:
    """Check paged attention against mlx-lm's own on this model and device, then allocate the KV pools."""
    on_host, kv_bits = memory.device.kind == "cpu", info.kv_bits
    try:
        distance = disagreement(model, info.vocab_size, on_host, kv_bits=kv_bits)
    except (NotImplementedError, ValueError) as error:
        raise ModelError(f"{info.name} needs {error}; not supported yet") from error
    if not distance <= 1:  # not >: NaN must fail
        raise ModelError(f"{info.name} computes wrongly on paged KV; not supported yet")
    kernels = None if on_host else usable_kernels(model, info.vocab_size, kv_bits)
    return Runner(model, memory.num_blocks, on_host, kernels, probe(model, kv_bits))


def _describe(info: ModelInfo, memory: MemoryPlan, attention: str) -> ServedModel:
    return ServedModel(
        name=info.name,
        vocab_size=info.vocab_size,
        max_context=memory.max_context,
        eos_token_ids=info.eos_token_ids,
        default_sampling=info.default_sampling,
        kv_type=info.kv_type,
        kv_bytes_per_token=memory.kv_bytes_per_token,
        num_blocks=memory.num_blocks,
        num_kv_tokens=memory.num_kv_tokens,
        device=memory.device.description,
        attention=attention,
    )
