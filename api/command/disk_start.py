"""The disk tier at the server's start: where it is, and what it found there."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ... import PensieveError
from ...cache.disk.config import DiskConfig
from ...cache.disk.fingerprint import identities
from ...cache.disk.index import DiskIndex
from ...cache.disk.open_tier import KeptModel, open_tier
from ...engine.compiling.user_folder import make_user_folder
from ...engine.loading.build import PlannedModel
from ...engine.loading.memory_plan import gigabytes
from ...engine.served_model import ServedModel


class DiskRefused(PensieveError):
    """KV is to be kept on disk, and cannot be."""


@dataclass(frozen=True, slots=True)
class DiskStart:
    """What the disk tier of a server needs."""

    config: DiskConfig
    planned: PlannedModel
    model: ServedModel
    loaded: Mapping[str, str]  # the model's files, as files_of() had them before they were loaded

    def open(self) -> DiskIndex | None:
        """Open the disk tier, or return None where there is none; open_tier() logs why.

        Takes a second for each gigabyte of weights that have not been hashed before.
        """
        layout = self.model.pool_layout
        if self.config.disk_cache_gb == 0 or layout is None:
            return None
        given = self.config.cache_dir
        place = make_user_folder("kv", is_lasting=True) if given is None else Path(given).expanduser()
        if place is None:
            return None
        info = self.planned.info
        facts = {"kv": info.kv_type, "layout": layout.text}
        facts |= {name: version(name) for name in ("mlx", "mlx-lm")}
        return open_tier(place, self.config, KeptModel(info.path, facts, layout.block_bytes, self.loaded))


def files_of(planned: PlannedModel, config: DiskConfig) -> Mapping[str, str]:
    """Return what identifies the model's files now; nothing where they cannot be looked at.

    Raises DiskRefused where a tier is asked for and the model can have none.
    """
    is_asked = config.cache_dir is not None or config.disk_cache_gb is not None
    if planned.ranks and is_asked and config.disk_cache_gb != 0:
        raise DiskRefused(
            "KV of a model on several devices is not kept on disk: leave --cache-dir and --disk-cache-gb out"
        )
    with suppress(OSError):
        return identities(planned.info.path)
    return {}


def describe_disk(index: DiskIndex) -> str:
    """Describe the tier in a line, for the start."""
    stats = index.stats
    found = f"{stats.num_files:,} files of this model" if stats.num_files else "nothing of this model yet"
    return f"disk     {index.place}: {gigabytes(stats.limit_bytes)} at most, {found}"
