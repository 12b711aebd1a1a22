"""The text that the server prints at its start: the model's plan, and how to point Claude Code to it."""

import shlex

from ... import DEFAULT_PORT, LOCAL_KEY
from ...engine.loading.build import PlannedModel
from ...engine.loading.memory_plan import MemoryPlan, gigabytes
from ...engine.loading.model_info import ModelInfo
from ...engine.loading.state_plan import STATES_A_SEQUENCE
from ...engine.served_model import ServedModel
from ..config import ServerConfig
from ..grammar.constraint_factory import ConstraintFactory
from .client_environment import (
    API_KEY,
    BASE_URL,
    MODEL,
    base_url,
    context_limits,
    fitting_flags,
)


def describe_plan(planned: PlannedModel, max_batch: int) -> str:
    """Describe the model, its device and its memory plan, as lines of text.

    max_batch: sequences that are to run at once.
    """
    info, memory = planned.info, planned.memory
    device = f"{memory.device.description}, {gigabytes(memory.device.available_bytes)} available"
    if memory.device.kind == "cpu":
        device += f"; {planned.blas}"
    context = f"{memory.max_context:,} tokens"
    if memory.max_context < info.context_length:
        context += f" (the model's own limit is {info.context_length:,})"
    return "\n".join(
        [
            f"model    {info.name}: {info.model_type}, {info.num_layers} layers, "
            f"{info.quantization or info.dtype}, {gigabytes(info.weight_bytes)}",
            f"device   {device}",
            f"context  {context}",
            *_describe_memory(info, memory, max_batch),
            *_describe_ranks(planned),
        ]
    )


def _describe_ranks(planned: PlannedModel) -> list[str]:
    """Describe the devices over which the model is spread; nothing for one device."""
    return [
        f"rank {number}   {rank.device_name} on {rank.machine}, {gigabytes(rank.available_bytes)} available; "
        f"{gigabytes(rank.sizes['weight_bytes'])} of weights, "
        f"{rank.sizes['kv_bytes_per_token']:,} bytes of KV a token"
        for number, rank in enumerate(planned.ranks)
    ]


def _describe_memory(info: ModelInfo, memory: MemoryPlan, max_batch: int) -> list[str]:
    """Describe what is kept of sequences: KV where the model attends, states where it is recurrent."""
    lines = []
    if memory.kv_bytes:
        lines.append(
            f"KV       {info.kv_type}, {memory.kv_bytes_per_token:,} bytes a token; "
            f"{memory.num_kv_tokens:,} tokens fit ({gigabytes(memory.kv_bytes - memory.window_bytes)})"
        )
    if memory.window is not None:
        window = memory.window
        left = window.num_blocks - window.promised_blocks
        lines.append(
            f"windows  {window.size:,} tokens of {info.window_bytes_per_token:,} bytes "
            f"({gigabytes(memory.window_bytes)}): for {window.max_running} running sequences, "
            f"{left // max(1, window.state_blocks):,} checkpoints, {window.slice_tokens:,} tokens of slices"
        )
    if memory.num_state_slots:
        running = memory.num_running(max_batch)
        held = STATES_A_SEQUENCE * running
        lines.append(
            f"states   {gigabytes(memory.state_bytes)} each, {memory.num_state_slots:,} fit "
            f"({gigabytes(memory.states_bytes)}): {held} for {running} running sequences, "
            f"{memory.num_state_slots - held:,} for checkpoints"
        )
    return lines


def describe_calls(constraint_factory: ConstraintFactory | None) -> str:
    """Return a line that says whether tool calls and JSON answers are kept to their schemas."""
    if constraint_factory is None:
        return "calls    not kept to their schemas: no grammar can be made of this model's tokens"
    if not constraint_factory.keeps_calls:
        return "calls    not kept to their schemas: no grammar for the model's format (JSON answers are)"
    return "calls    kept to their tools' schemas while they are written"


def describe_client(model: ServedModel, config: ServerConfig, port: int) -> str:
    """Return the shell commands that make Claude Code use this server.

    port: the bound port; the config's may be 0.
    """
    asks = config.api_key is not None or config.api_keys_file is not None
    key = "your-api-key" if asks else LOCAL_KEY
    flags = f" --port {port}" if port != DEFAULT_PORT else ""
    flags += " --api-key KEY" if asks else ""
    variables = {BASE_URL: base_url(config.host, port, config.scheme), API_KEY: key, MODEL: model.name}
    variables |= context_limits(model.max_context)
    small = fitting_flags(model.max_context)
    lines = [
        f"Ready. `pensieve claude{flags}` in another terminal starts Claude Code on it; or paste there:",
        "",
        *(f"  export {name}={shlex.quote(value)}" for name, value in variables.items()),
        f"  {' '.join(['claude', *small])}",
    ]
    if small:
        lines += [
            "",
            f"This context is short for Claude Code's full prompt: so it starts with {small[0]}.",
        ]
    return "\n".join(lines)
