"""Opens the disk tier at a server's start, or says in one line why there is none."""

import logging
from collections import abc
from dataclasses import dataclass
from pathlib import Path

from .config import DiskConfig
from .disk_room import DiskLimits
from .fingerprint import fingerprint_of, identities
from .folder import FolderError, open_folder
from .index import DiskIndex

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeptModel:
    """The model whose KV is kept."""

    folder: Path
    facts: abc.Mapping[str, str]  # what its KV depends on beside the folder's files: see fingerprint_of()
    block_bytes: int  # KV of a block; 0 for a model without attention
    loaded: abc.Mapping[str, str]  # the folder's files before they were loaded: see identities()


def open_tier(place: Path, config: DiskConfig, model: KeptModel) -> DiskIndex | None:
    """Lock the folder `place`, and return the index of what it has of a model's KV.

    Returns None where the folder cannot be used, as where another server uses it, or where the model is not
    known to be the one that was loaded, and logs why. Takes a
    second for each gigabyte of a model that has not been seen before, in which other threads can run.
    """
    try:
        folder = open_folder(place)
    except FolderError as error:
        logger.warning("no KV is kept on disk: %s", error)
        return None
    try:
        fingerprint = fingerprint_of(model.folder, model.facts, folder.memo)
        if identities(model.folder) != model.loaded:
            raise OSError(f"{model.folder} has changed since the model was loaded")
        used = sum(found.disk_bytes for found in folder.scan())
        limit = config.limit_bytes(folder.files.free_bytes(folder.path), used)
        return DiskIndex(folder, fingerprint, model.block_bytes, DiskLimits(limit, hourly_bytes=limit))
    except OSError as error:
        folder.close()
        logger.warning("no KV is kept on disk: %s", error)
        return None
