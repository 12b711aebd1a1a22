"""Turns a model's name into a local folder: a folder itself, the bundled demo, or a download from the hub.

The hub's own client checks the size of a download but not its hash, and drops a file's bytes when it is
interrupted. So the large files are fetched here, with the client's HTTP layer, into the client's cache: they
resume where they stopped, and every file's hash is checked once. A record of the checked files is written
beside them; from then on a start needs no network.
"""

import errno
import fcntl
import hashlib
import json
import logging
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # no __all__ there

from .model_error import ModelError, first_line

# Files that a model needs; never Python files.
WANTED = ["model*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
UNWANTED = ["*/*"]  # other variants of the model live in subfolders

RECORD = "pensieve-checked.json"
PARTIAL = ".pensieve-partial"
ORPHAN_AGE_S = 3600.0  # a download that runs has written within the hour
API_TIMEOUT_S = 20.0

Say = Callable[[str], None]
"""Shows the user a line of progress."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a model on the hub. Large files carry a sha256, small ones their git object id."""

    name: str
    size: int
    git_id: str
    sha256: str | None

    @property
    def blob_name(self) -> str:
        """The file's name in the hub client's cache."""
        return self.sha256 or self.git_id


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files that one commit of a model has on the hub, and where the client's cache keeps them."""

    repo: str
    commit: str
    files: tuple[RemoteFile, ...]
    storage: Path

    @property
    def folder(self) -> Path:
        """The folder of this commit's files."""
        return self.storage / "snapshots" / self.commit


def resolve(name: str, say: Say) -> Path:
    """Find or fetch the model called `name`; return its folder. Raises ModelError, one line."""
    if name == "demo":
        return _existing_folder(Path(__file__).parents[1] / "demo" / "model")
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        return _existing_folder(path)
    try:
        return _fetch_model(name, say)
    except ModelError:
        raise
    except Exception as error:  # the client lets errors of several HTTP libraries through
        raise explain(name, error) from error


def _existing_folder(path: Path) -> Path:
    if not path.is_dir():
        raise ModelError(f"no such model folder: {path}")
    return path


def _fetch_model(repo: str, say: Say) -> Path:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    storage = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    if checked := _read_record(storage):
        return checked
    try:
        snapshot = _list_files(repo, storage)
    except Exception:
        if cached := _cached_folder(repo):
            say(f"the hub cannot be asked; using the unchecked copy in {cached}")
            return cached
        raise
    _sweep(storage)
    for _ in range(2):
        _download(snapshot, say)
        broken = _find_broken(snapshot, say)
        if not broken:
            _write_record(snapshot)
            return snapshot.folder
        for file in broken:
            say(f"{file.name} is damaged: fetching it again")
            _remove(snapshot, file)
    raise ModelError(f"{repo}: {broken[0].name} arrives damaged (its hash is not the hub's)")


def _list_files(repo: str, storage: Path) -> Snapshot:
    info = HfApi().model_info(repo, timeout=API_TIMEOUT_S, files_metadata=True)
    siblings = info.siblings or []
    files = tuple(
        RemoteFile(file.rfilename, file.size or 0, file.blob_id or "", file.lfs.sha256 if file.lfs else None)
        for file in siblings
        if _is_wanted(file.rfilename)
    )
    if not any(file.name.endswith(".safetensors") for file in files):
        raise ModelError(f"{repo} on the hub has no model*.safetensors: not a model that MLX can load")
    return Snapshot(repo, info.sha or "", files, storage)


def _is_wanted(name: str) -> bool:
    """Return whether a file is fetched; `snapshot_download` reads WANTED and UNWANTED in the same way."""
    return any(fnmatch(name, pattern) for pattern in WANTED) and not any(fnmatch(name, p) for p in UNWANTED)


def _download(snapshot: Snapshot, say: Say) -> None:
    missing = [file for file in snapshot.files if not _blob(snapshot, file).exists()]
    _check_space(snapshot, missing)
    if missing:
        size = sum(file.size for file in missing)
        say(f"downloading {snapshot.repo}: {len(missing)} files, {size / 1e6:,.0f} MB")
    for file in missing:
        # The hub serves still larger files through its client's own protocol only.
        if file.sha256 and file.size <= constants.MAX_HTTP_DOWNLOAD_SIZE:
            _download_large(snapshot, file)
    snapshot_download(
        snapshot.repo, revision=snapshot.commit, allow_patterns=WANTED, ignore_patterns=UNWANTED
    )
    _write_branch(snapshot)


def _download_large(snapshot: Snapshot, file: RemoteFile) -> None:
    """Fetch one file into the client's cache, from where an earlier try stopped."""
    blob = _blob(snapshot, file)
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
    partials = [_blob(snapshot, file).with_name(file.blob_name + PARTIAL) for file in missing]
    present = sum(partial.stat().st_size for partial in partials if partial.exists())
    needed = sum(file.size for file in missing) - present
    folder = next(path for path in (snapshot.storage, *snapshot.storage.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ModelError(f"disk full: {snapshot.repo} needs {needed:,} bytes in {folder}, {free:,} are free")


def _find_broken(snapshot: Snapshot, say: Say) -> list[RemoteFile]:
    say(f"checking the hashes of {len(snapshot.files)} files")
    return [file for file in snapshot.files if not _is_sound(snapshot.folder / file.name, file)]


def _is_sound(path: Path, file: RemoteFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    if file.sha256:
        digest, expected = hashlib.sha256(), file.sha256
    else:
        digest, expected = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False), file.git_id
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == expected


def _remove(snapshot: Snapshot, file: RemoteFile) -> None:
    _blob(snapshot, file).unlink(missing_ok=True)
    (snapshot.folder / file.name).unlink(missing_ok=True)


def _blob(snapshot: Snapshot, file: RemoteFile) -> Path:
    return snapshot.storage / "blobs" / file.blob_name


def _sweep(storage: Path) -> None:
    """Remove the files of killed downloads of the hub's client, which never removes them."""
    for orphan in storage.glob("blobs/*.incomplete"):
        if time.time() - orphan.stat().st_mtime > ORPHAN_AGE_S:
            orphan.unlink(missing_ok=True)


def _write_branch(snapshot: Snapshot) -> None:
    """Let the hub's client find this commit as the main branch when it is offline."""
    branch = snapshot.storage / "refs" / constants.DEFAULT_REVISION
    branch.parent.mkdir(parents=True, exist_ok=True)
    _write_atomically(branch, snapshot.commit)


def _write_record(snapshot: Snapshot) -> None:
    sizes = {file.name: file.size for file in snapshot.files}
    _write_atomically(snapshot.storage / RECORD, json.dumps({"commit": snapshot.commit, "sizes": sizes}))


def _write_atomically(file: Path, text: str) -> None:
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def _read_record(storage: Path) -> Path | None:
    """Return the folder that an earlier start has checked, if all its files are still there."""
    try:
        record = json.loads((storage / RECORD).read_text(encoding="utf-8"))
        folder = storage / "snapshots" / str(record["commit"])
        sizes = {folder / name: size for name, size in record["sizes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    whole = all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())
    return folder if sizes and whole else None


def _cached_folder(repo: str) -> Path | None:
    """Return the folder of a copy that another program has downloaded; the loader judges if it is whole."""
    try:
        folder = snapshot_download(
            repo, allow_patterns=WANTED, ignore_patterns=UNWANTED, local_files_only=True
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return Path(folder)


def explain(repo: str, error: Exception) -> ModelError:
    """Put the client's error in one line for the user."""
    if isinstance(error, GatedRepoError):
        return ModelError(f"{repo} is gated: accept its terms on the hub, then set HF_TOKEN")
    if isinstance(error, RepositoryNotFoundError):
        return ModelError(f"no such model on the hub: {repo} (a private one needs HF_TOKEN)")
    if isinstance(error, HFValidationError):
        return ModelError(f"not a folder and not a hub id: {repo}")
    if isinstance(error, OfflineModeIsEnabled):
        return ModelError(f"{repo} is not in the cache and HF_HUB_OFFLINE is set; try --model demo")
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return ModelError(f"the hub refuses access to {repo}: set HF_TOKEN to a token that may read it")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ModelError(f"disk full while downloading {repo}; the next start goes on from here")
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return ModelError(f"{repo} cannot be stored: {first_line(error)}")
    reason = f"{type(error).__name__}: {first_line(error, 120)}"
    return ModelError(f"the hub cannot be reached for {repo} ({reason}); try again, or --model demo")
