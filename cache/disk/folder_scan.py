"""Reads what lies in the folder at a server's start, and removes what a killed one has not finished."""

import os
from pathlib import Path

from .disk_room import DiskRoom
from .folder import DiskFolder, FoundFile, file_path, is_temporary
from .segment_file import FileDamaged, read_key
from .stored_files import StoredFile


def scan_folder(folder: DiskFolder, model_folder: Path, room: DiskRoom) -> int:
    """Tell `room` of all that lies in `folder`.

    Unfinished files are removed, and those of `model_folder` that are not what their names say, by the first
    bytes of each; payloads are verified when they are read. Returns how many of the latter there were.
    """
    fixed_bytes = 0
    others: list[FoundFile] = []
    ours: list[FoundFile] = []
    unfinished: list[FoundFile] = []
    for found in folder.scan():
        if not found.is_ours:
            fixed_bytes += found.disk_bytes
        elif is_temporary(found.path):
            unfinished.append(found)
        elif os.path.dirname(found.path) == os.fspath(model_folder):
            ours.append(found)
        else:
            others.append(found)
    room.begin(fixed_bytes, others)
    for found in unfinished:
        room.discard(found.path, found.disk_bytes)
    num_damaged = 0
    for found in sorted(ours, key=lambda one: one.changed_at):
        if (file := _read_file(folder, model_folder, found)) is None or room.files.overlaps(file):
            room.discard(found.path, found.disk_bytes)
            num_damaged += 1
        else:
            room.add(file)
            room.files.written(file)
    return num_damaged


def _read_file(folder: DiskFolder, model_folder: Path, found: FoundFile) -> StoredFile | None:
    """Return the file as the index has it; None where it is not what its name says, or cannot be read."""
    try:
        key, payload_bytes = read_key(found.path, folder.files)
    except (FileDamaged, OSError):
        return None
    file = StoredFile(found.path, key, payload_bytes, found.disk_bytes)
    is_right = file_path(model_folder, file.digests[-1], key.kind) == found.path
    return file if is_right and key.fingerprint.hex() == model_folder.name else None
