"""Fetches a model's files from the hub into the hub client's cache.

The hub's own client drops a file's bytes when it is interrupted. So large files are fetched here, with the
client's HTTP layer: an interrupted download resumes where it stopped.
"""

import fcntl
import shutil
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import constants, hf_hub_url, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # no __all__ there

from .model_error import ModelError
from .snapshot import RemoteFile, Snapshot

# Files that a model needs; never Python files.
WANTED = ["model*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
UNWANTED = ["*/*"]  # other variants of the model live in subfolders

PARTIAL = ".pensieve-partial"
ORPHAN_AGE_S = 3600.0  # a running download has written to its file within the hour

Say = Callable[[str], None]
"""Shows the user a line of progress."""


def is_wanted(name: str) -> bool:
    """Return whether a file is fetched; `snapshot_download` applies the same patterns in the same way."""
    return any(fnmatch(name, pattern) for pattern in WANTED) and not any(fnmatch(name, p) for p in UNWANTED)


def download(snapshot: Snapshot, say: Say) -> None:
    """Fetch the snapshot's files that are missing.

    Raises ModelError for a full disk and for a file that another process fetches; also the client's errors.
    """
    missing = [file for file in snapshot.files if not snapshot.blob(file).exists()]
    _check_space(snapshot, missing)
    if missing:
        size = sum(file.size for file in missing)
        say(f"downloading {snapshot.repo}: {len(missing)} files, {size / 1e6:,.0f} MB")
    for file in missing:
        # The hub serves files beyond this size through its client's own protocol only.
        if file.sha256 and file.size <= constants.MAX_HTTP_DOWNLOAD_SIZE:
            _download_large(snapshot, file)
    snapshot_download(
        snapshot.repo, revision=snapshot.commit, allow_patterns=WANTED, ignore_patterns=UNWANTED
    )
    snapshot.write_branch(constants.DEFAULT_REVISION)


def find_cached_folder(repo: str) -> Path | None:
    """Return the folder of a copy that another program has downloaded, perhaps in part."""
    try:
        folder = snapshot_download(
            repo, allow_patterns=WANTED, ignore_patterns=UNWANTED, local_files_only=True
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return Path(folder)


def remove_orphans(storage: Path) -> None:
    """Remove the partial files of killed downloads of the hub's client, which never removes them."""
    for orphan in storage.glob("blobs/*.incomplete"):
        if time.time() - orphan.stat().st_mtime > ORPHAN_AGE_S:
            orphan.unlink(missing_ok=True)


def _download_large(snapshot: Snapshot, file: RemoteFile) -> None:
    """Fetch one file into the client's cache, from where an earlier try stopped."""
    blob = snapshot.blob(file)
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = blob.with_name(blob.name + PARTIAL)
    with partial.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ModelError(f"{snapshot.repo} is being downloaded by another process") from None
        if stream.tell() > file.size:
            stream.truncate(0)
        http_get(
            hf_hub_url(snapshot.repo, file.name, revision=snapshot.commit),
            stream,
            resume_size=stream.tell(),
            headers=build_hf_headers(),
            expected_size=file.size,
            displayed_filename=file.name,
        )
        stream.flush()
        partial.replace(blob)


def _check_space(snapshot: Snapshot, missing: list[RemoteFile]) -> None:
    partials = [snapshot.blob(file).with_name(file.blob_name + PARTIAL) for file in missing]
    present = sum(partial.stat().st_size for partial in partials if partial.exists())
    needed = sum(file.size for file in missing) - present
    folder = next(path for path in (snapshot.storage, *snapshot.storage.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ModelError(f"disk full: {snapshot.repo} needs {needed:,} bytes in {folder}, {free:,} are free")
