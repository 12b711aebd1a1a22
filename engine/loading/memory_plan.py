"""How much memory the KV of all sequences may take, and how long a context can be. No arrays are made here.

The plan is a pure function of the model's facts, the settings and the device's facts, so that every machine
can be tested on any machine. MLX is asked for the device's facts only; its wired limit is never set (on
macOS that has brought whole machines down).
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mlx.core as mx

from ...cache.blocks import BLOCK_SIZE
from ...cache.packing import UNQUANTISED
from ..config import EngineConfig
from .model_info import ModelInfo
from .weights import ModelError

DeviceKind = Literal["metal", "cuda", "cpu"]
DEVICE_NAMES: dict[DeviceKind, str] = {"metal": "Apple GPU", "cuda": "NVIDIA GPU", "cpu": "CPU"}

# Activations, logits, MLX's buffer cache and the Python process itself.
RESERVE_BYTES = 750_000_000

# Of what weights and reserve leave. The rest is for prefill, which copies one layer's K and V at a time, and
# for what else the machine does: on the CPU that memory is every program's.
KV_SHARE: dict[DeviceKind, float] = {"metal": 0.9, "cuda": 0.9, "cpu": 0.8}

# More full contexts than this are not worth their memory: a CPU could not read them in useful time, and a
# small model on a large machine would take all of it.
MAX_CONTEXTS: dict[DeviceKind, int] = {"metal": 32, "cuda": 32, "cpu": 8}

# A server that holds less cannot answer anything of use.
MIN_CONTEXT = 1024

# MLX keeps freed buffers for reuse, by default without a real bound.
BUFFER_CACHE_BYTES = 256_000_000


@dataclass(frozen=True, slots=True)
class Device:
    """What computes, and the memory it may use."""

    kind: DeviceKind
    name: str
    total_bytes: int
    available_bytes: int

    @property
    def description(self) -> str:
        """Kind and name, for people to read."""
        return f"{DEVICE_NAMES[self.kind]} ({self.name})"


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Where the device's memory goes."""

    device: Device
    weight_bytes: int
    kv_bytes_per_token: int
    kv_bytes: int  # the pools of all layers together
    num_blocks: int
    max_context: int  # longest prompt plus answer, tokens

    @property
    def num_kv_tokens(self) -> int:
        return self.num_blocks * BLOCK_SIZE


def make_plan(info: ModelInfo, config: EngineConfig, device: Device) -> MemoryPlan:
    """Divide the device's memory between weights and KV.

    Raises ModelError that says how much is missing and what would help.
    """
    limit = _context_limit(info, config)
    wanted = limit if config.max_context is not None else min(limit, MIN_CONTEXT)
    kv_bytes = _kv_budget(info, config, device, limit)
    block_bytes = BLOCK_SIZE * info.kv_bytes_per_token
    num_blocks = kv_bytes // block_bytes
    wanted_bytes = -(-wanted // BLOCK_SIZE) * block_bytes
    if kv_bytes < wanted_bytes:
        raise ModelError(_shortage(info, config, device, wanted, wanted_bytes - kv_bytes))
    return MemoryPlan(
        device=device,
        weight_bytes=info.weight_bytes,
        kv_bytes_per_token=info.kv_bytes_per_token,
        kv_bytes=num_blocks * block_bytes,
        num_blocks=num_blocks,
        max_context=min(limit, num_blocks * BLOCK_SIZE),
    )


def _context_limit(info: ModelInfo, config: EngineConfig) -> int:
    if config.max_context is None:
        return info.context_length
    if config.max_context > info.context_length:
        raise ModelError(
            f"--max-context {config.max_context} is more than the model's {info.context_length} tokens"
        )
    return config.max_context


def _kv_budget(info: ModelInfo, config: EngineConfig, device: Device, limit: int) -> int:
    """Bytes for KV: as the user says, or what the device can spare. Raises ModelError."""
    spare = device.available_bytes - info.weight_bytes - RESERVE_BYTES
    if config.kv_cache_gb is not None:
        asked = int(config.kv_cache_gb * 1e9)
        if asked > spare:
            raise ModelError(
                f"not enough memory: --kv-cache-gb {config.kv_cache_gb:g} is {gigabytes(asked - spare)} more "
                f"than {device.name} can spare beside the weights"
            )
        return asked
    useful = MAX_CONTEXTS[device.kind] * (limit + BLOCK_SIZE) * info.kv_bytes_per_token
    return max(0, min(int(spare * KV_SHARE[device.kind]), useful))


def _shortage(info: ModelInfo, config: EngineConfig, device: Device, wanted: int, missing: int) -> str:
    kv_bytes = wanted * info.kv_bytes_per_token
    share = 1.0 if config.kv_cache_gb is not None else KV_SHARE[device.kind]
    # Where not even the weights fit, the budget was cut off at zero.
    below_zero = max(0, info.weight_bytes + RESERVE_BYTES - device.available_bytes)
    helps = ["a smaller --max-context"] if config.max_context is not None else []
    helps += ["a larger --kv-cache-gb"] if config.kv_cache_gb is not None else []
    # 8 bits take 9/16 of half precision, scales included.
    helps += ["--kv-bits 8"] if info.kv_bits == UNQUANTISED and missing < kv_bytes * 7 / 16 else []
    helps += ["a smaller model"] if info.quantization else ["a 4-bit model"]
    return (
        f"not enough memory: {gigabytes(int(missing / share) + below_zero)} missing. {info.name} takes "
        f"{gigabytes(info.weight_bytes)}, {wanted} tokens of KV take {gigabytes(kv_bytes)}, and "
        f"{device.name} has {gigabytes(device.available_bytes)} available; try {' or '.join(helps)}"
    )


def gigabytes(num_bytes: int) -> str:
    """Bytes for people, in GB of 10^9 bytes or MB of 10^6."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def find_device() -> Device:
    """Ask MLX and the operating system what there is."""
    spec = mx.device_info()
    name = str(spec.get("device_name", "unknown"))
    if mx.metal.is_available():
        total = int(spec["memory_size"])
        return Device("metal", name, total, int(spec["max_recommended_working_set_size"]))
    if mx.default_device().type == mx.gpu:
        return Device("cuda", name, int(spec["total_memory"]), int(spec["free_memory"]))
    total, available = _host_memory()
    return Device("cpu", name, total, available)


def bound_buffer_cache() -> None:
    """Keep MLX from holding freed buffers without limit. In the engine's process, before the first step."""
    mx.set_cache_limit(BUFFER_CACHE_BYTES)


def _host_memory() -> tuple[int, int]:
    """Total and available bytes of RAM, within the limits of this process's control groups."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page
    available = _read_meminfo(Path("/proc/meminfo")).get("MemAvailable", total)
    for limit, used in _control_groups():
        total = min(total, limit)
        available = min(available, max(0, limit - used))
    return total, available


def _read_meminfo(file: Path) -> dict[str, int]:
    if not file.exists():
        return {}
    lines = (line.split() for line in file.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) == 3}


def _control_groups(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[tuple[int, int]]:
    """(limit, used) in bytes of every control group that this process is in; version 2, then version 1."""
    if not own.exists():
        return []
    paths = [line.split(":", 2) for line in own.read_text().splitlines()]
    groups = [root / path.lstrip("/") for _, controller, path in paths if controller == ""]
    groups += [root / "memory" / path.lstrip("/") for _, controller, path in paths if controller == "memory"]
    # In a container the path is the host's, and the mounted root is the group itself.
    folders = [
        folder for group in groups for folder in (group, *group.parents) if folder.is_relative_to(root)
    ]
    names = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    found = [_read_limit(folder, *pair) for folder in dict.fromkeys(folders) for pair in names]
    return [pair for pair in found if pair is not None]


def _read_limit(folder: Path, limit_name: str, used_name: str) -> tuple[int, int] | None:
    try:
        limit = (folder / limit_name).read_text().strip()
        used = int((folder / used_name).read_text())
        reclaimable = _reclaimable(folder / "memory.stat")
    except (OSError, ValueError):
        return None
    return None if limit == "max" else (int(limit), max(0, used - reclaimable))


def _reclaimable(stat: Path) -> int:
    """File pages that the kernel gives back when memory is short; a freshly read model is made of them."""
    if not stat.exists():
        return 0
    values = dict(line.split() for line in stat.read_text().splitlines())
    return int(values.get("inactive_file", values.get("total_inactive_file", 0)))
