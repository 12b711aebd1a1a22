"""Fetches a model's files from the hub into the hub client's cache.

The hub's own client drops a file's bytes when it is interrupted, and makes paths of whatever names a server
gives. So files are fetched here, with the client's HTTP layer, and an interrupted download resumes where it
stopped.
"""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # no __all__ there
    build_hf_headers,
    hf_raise_for_status,
    http_stream_backoff,
)

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


def download(snapshot: Snapshot, files: Iterable[RemoteFile], say: Say) -> None:
    """Fetch those of the snapshot's `files` that are missing, and give all of them their names.

    Raises ModelError for a file that another process fetches; also the client's errors.
    """
    files = tuple(files)
    missing = snapshot.find_missing(files)
    if missing:
        size = sum(file.size for file in missing)
        say(f"downloading {snapshot.repo}: {len(missing)} files, {size / 1e6:,.0f} MB")
    for file in missing:
        snapshot.blob(file).parent.mkdir(parents=True, exist_ok=True)
        if file.size > constants.MAX_HTTP_DOWNLOAD_SIZE:
            # The hub serves files beyond this size through its client's own protocol only.
            hf_hub_download(snapshot.repo, file.name, revision=snapshot.commit)
        elif file.sha256:
            _download_large(snapshot, file)
        else:
            _download_small(snapshot, file)
    for file in files:
        snapshot.link(file)


def fetch_start(snapshot: Snapshot, file: RemoteFile, num_bytes: int) -> bytes:
    """Fetch the first `num_bytes` bytes of a file, fewer where it ends before. Raises the client's errors."""
    if not num_bytes:
        return b""
    # Identity: bytes are counted in what the file holds.
    headers = build_hf_headers() | {"Range": f"bytes=0-{num_bytes - 1}", "Accept-Encoding": "identity"}
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with http_stream_backoff("GET", _url(snapshot, file), headers=headers, timeout=timeout) as response:
        hf_raise_for_status(response)
        data = bytearray()  # of up to MAX_SMALL_BYTES, in pieces of some kB
        for chunk in response.iter_bytes():
            data += chunk
            if len(data) >= num_bytes:  # a server may ignore the range
                break
    return bytes(data[:num_bytes])


def find_cached_folder(repo: str) -> Path | None:
    """Return the folder of a copy that another program has downloaded, perhaps in part."""
    try:
        folder = snapshot_download(
            repo, allow_patterns=WANTED, ignore_patterns=UNWANTED, local_files_only=True
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return Path(folder)


def remove_orphans(snapshot: Snapshot) -> None:
    """Remove old partial files: those of the hub's client, which never does, and those of other commits."""
    resumed = {_partial(snapshot, file) for file in snapshot.files}
    found = [
        path for ending in (".incomplete", PARTIAL) for path in snapshot.storage.glob(f"blobs/*{ending}")
    ]
    for orphan in found:
        if orphan not in resumed and time.time() - orphan.stat().st_mtime > ORPHAN_AGE_S:
            orphan.unlink(missing_ok=True)


def check_space(snapshot: Snapshot) -> None:
    """Refuse a download for which the disk has no room. Raises ModelError."""
    missing = snapshot.find_missing(snapshot.files)
    partials = [_partial(snapshot, file) for file in missing]
    present = sum(partial.stat().st_size for partial in partials if partial.exists())
    needed = sum(file.size for file in missing) - present
    folder = next(path for path in (snapshot.storage, *snapshot.storage.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ModelError(f"disk full: {snapshot.repo} needs {needed:,} bytes in {folder}, {free:,} are free")


def _download_small(snapshot: Snapshot, file: RemoteFile) -> None:
    partial = _partial(snapshot, file)
    partial.write_bytes(fetch_start(snapshot, file, file.size))
    partial.replace(snapshot.blob(file))


def _download_large(snapshot: Snapshot, file: RemoteFile) -> None:
    """Fetch one file into the client's cache, from where an earlier try stopped."""
    partial = _partial(snapshot, file)
    with partial.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ModelError(f"{snapshot.repo} is being downloaded by another process") from None
        if stream.tell() > file.size:
            stream.truncate(0)
        http_get(
            _url(snapshot, file),
            stream,
            resume_size=stream.tell(),
            headers=build_hf_headers(),
            expected_size=file.size,
            displayed_filename=file.name,
        )
        stream.flush()
        partial.replace(snapshot.blob(file))


def _partial(snapshot: Snapshot, file: RemoteFile) -> Path:
    """Return where the content of `file` lies until it is complete."""
    blob = snapshot.blob(file)
    return blob.with_name(blob.name + PARTIAL)


def _url(snapshot: Snapshot, file: RemoteFile) -> str:
    return hf_hub_url(snapshot.repo, file.name, revision=snapshot.commit)
