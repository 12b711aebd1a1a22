"""The device that computes, and the memory it may use, as MLX and the operating system report them.

MLX's wired limit is never set (on macOS, setting it has brought whole machines down).
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mlx.core as mx

DeviceKind = Literal["metal", "cuda", "cpu"]
DEVICE_NAMES: dict[DeviceKind, str] = {"metal": "Apple GPU", "cuda": "NVIDIA GPU", "cpu": "CPU"}

# MLX keeps freed buffers for reuse, by default without a real bound.
BUFFER_CACHE_BYTES = 256_000_000


@dataclass(frozen=True, slots=True)
class Device:
    """A device and the memory that it may use."""

    kind: DeviceKind
    name: str
    available_bytes: int

    @property
    def description(self) -> str:
        """Kind and name, for people to read."""
        return f"{DEVICE_NAMES[self.kind]} ({self.name})"


def find_device() -> Device:
    """Find the device that MLX computes on."""
    spec = mx.device_info()
    name = str(spec.get("device_name", "unknown"))
    if mx.metal.is_available():
        return Device("metal", name, int(spec["max_recommended_working_set_size"]))
    if mx.default_device().type == mx.gpu:
        return Device("cuda", name, int(spec["free_memory"]))
    return Device("cpu", name, _available_ram())


def computes() -> bool:
    """Whether MLX's device computes a matrix product rightly. Raises what MLX raises where it cannot."""
    size = 64
    product = mx.ones((size, size), mx.float16) @ mx.ones((size, size), mx.float16)
    return bool(mx.all(product == size).item())


def bound_buffer_cache() -> None:
    """Keep MLX from holding freed buffers without limit. In the engine's process, before the first step."""
    mx.set_cache_limit(BUFFER_CACHE_BYTES)


def _available_ram() -> int:
    """Return the available bytes of RAM, within the limits of this process's control groups."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = _read_meminfo(Path("/proc/meminfo")).get("MemAvailable", total)
    return min([available, *(max(0, limit - used) for limit, used in _control_groups())])


def _read_meminfo(file: Path) -> dict[str, int]:
    if not file.exists():
        return {}
    lines = (line.split() for line in file.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) == 3}


def _control_groups(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[tuple[int, int]]:
    """Return (limit, used), in bytes, of this process's control groups and their parents."""
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
    """Return the bytes of cached file pages, such as a model's, that Linux frees when memory runs short."""
    if not stat.exists():
        return 0
    values = dict(line.split() for line in stat.read_text().splitlines())
    return int(values.get("inactive_file", values.get("total_inactive_file", 0)))
