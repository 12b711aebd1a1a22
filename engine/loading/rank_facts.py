"""What a rank says of itself before the load: do the ranks fit together, and what can each hold."""

import hashlib
import platform
from collections import Counter, abc
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ... import __version__
from ...cache.blocks import BLOCK_SIZE
from ..ranks.rank_link import RankError
from ..served_model import RankMemory, WindowPool
from .device import Device
from .memory_plan import MemoryPlan
from .model_info import ModelInfo
from .weights import LENGTH_BYTES, MAX_HEADER_BYTES, read_header, weight_files

SIZES = (
    "weight_bytes",
    "kv_bytes_per_token",
    "state_bytes",
    "window_bytes_per_token",
    "activation_bytes_per_token",
)
"""Facts of a rank's part of the model that may differ; the plan is made for the largest of each."""

SAMPLE_BYTES = 256
"""Bytes of each tensor that are compared."""

ALIKE = ("model_type", "vocab_size", "context_length", "dtype", "kv_bits", "window")
"""Facts of the model in which all ranks must agree."""


@dataclass(frozen=True, slots=True)
class RankFacts:
    """What one rank says of itself: plain values, as JSON holds them.

    alike: what all ranks must have alike, by its name for people.
    sizes: of the rank's part of the model, see SIZES.
    """

    machine: str
    device_kind: str
    device_name: str
    available_bytes: int
    alike: dict[str, Any]
    sizes: dict[str, int]

    @classmethod
    def of(cls, info: ModelInfo, device: Device) -> "RankFacts":
        """Return the facts of this process's rank. Reads the headers of the weights."""
        alike = {"pensieve": __version__, "mlx": version("mlx"), "mlx-lm": version("mlx-lm")}
        alike |= {"device": device.kind} | {name: getattr(info, name) for name in ALIKE}
        alike |= {"config.json": _hash(info.path / "config.json"), "weights": hash_headers(info.path)}
        sizes = {name: int(getattr(info, name)) for name in SIZES}
        return cls(platform.node(), device.kind, device.name, device.available_bytes, alike, sizes)

    @classmethod
    def read(cls, message: dict[str, Any]) -> "RankFacts":
        """Return the facts that another rank has sent. Raises RankError."""
        try:
            return cls(**message)
        except TypeError as error:
            raise RankError("a rank has another version of pensieve") from error

    def memory(self, plan: MemoryPlan) -> RankMemory:
        """Return what this rank keeps under the plan of all ranks."""
        window_token = self.sizes["window_bytes_per_token"] if plan.window is not None else 0
        window_tokens = plan.window.num_blocks * BLOCK_SIZE if plan.window is not None else 0
        kept_token = self.sizes["kv_bytes_per_token"] - window_token
        return RankMemory(
            self.sizes["weight_bytes"],
            plan.num_kv_tokens * kept_token + window_tokens * window_token,
            plan.num_state_slots * self.sizes["state_bytes"],
        )

    def as_message(self) -> dict[str, Any]:
        """Return what `read` reads."""
        return asdict(self)


def check_alike(ranks: abc.Sequence[RankFacts]) -> None:
    """Refuse ranks that would not compute the same. Raises RankError, which names the first difference."""
    first = ranks[0].alike
    for number, other in enumerate(ranks):
        for name in [*first, *(other.alike.keys() - first.keys())]:
            ours, theirs = first.get(name), other.alike.get(name)
            if ours != theirs:
                raise RankError(
                    f"rank {number} has {name} {theirs}, rank 0 has {ours}: they must be the same"
                )


def share_out(ranks: abc.Sequence[RankFacts], info: ModelInfo, device: Device) -> tuple[ModelInfo, Device]:
    """Return facts and device for which a plan fits every rank: the largest part, the smallest memory.

    Ranks of one machine without GPUs of their own share its memory.
    """
    sharing = Counter(rank.machine for rank in ranks)
    rooms = [
        rank.available_bytes // (1 if rank.device_kind == "cuda" else sharing[rank.machine]) for rank in ranks
    ]
    largest: dict[str, Any] = {name: max(rank.sizes[name] for rank in ranks) for name in SIZES}
    return replace(info, **largest), replace(device, available_bytes=min(rooms))


def read_plan(message: dict[str, Any], device: Device) -> MemoryPlan:
    """Return the plan that rank 0 has sent, on this rank's device."""
    window = message["window"]
    given = message | {"device": device, "window": None if window is None else WindowPool(**window)}
    return MemoryPlan(**given)


def hash_headers(folder: Path) -> str:
    """Return a short hash of names, shapes and places of a folder's weights, none of which is read."""
    digest = hashlib.sha256()
    for file in weight_files(folder):
        with file.open("rb") as stream:
            head = stream.read(LENGTH_BYTES)
            header = stream.read(min(int.from_bytes(head, "little"), MAX_HEADER_BYTES))
        digest.update(file.name.encode() + head + header)
    return digest.hexdigest()[:12]


def hash_samples(folder: Path) -> str:
    """Return a short hash of bytes from the middle of each of a folder's weights. Raises ModelError.

    Two trainings of one model have the same headers, and differ in nearly all weights.
    """
    digest = hashlib.sha256()
    for file in weight_files(folder):
        tensors = read_header(file).values()
        with file.open("rb", buffering=0) as stream:
            data_at = LENGTH_BYTES + int.from_bytes(stream.read(LENGTH_BYTES), "little")
            for begin, end in sorted((tensor.begin, tensor.end) for tensor in tensors):
                middle = (begin + end) // 2
                stream.seek(data_at + middle)
                digest.update(stream.read(min(SAMPLE_BYTES, end - middle)))
    return digest.hexdigest()[:12]


def check_weights(hashes: abc.Sequence[str]) -> None:
    """Refuse ranks with other weights than rank 0's. Raises RankError."""
    for number, other in enumerate(hashes):
        if other != hashes[0]:
            raise RankError(
                f"rank {number} has other weights under the same names than rank 0: "
                "copy rank 0's model folder to it, or fetch the model anew on both"
            )


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
