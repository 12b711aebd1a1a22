"""Turns a model's name into a local folder: a folder itself, the bundled demo, or a download from the hub.

The hub's own client checks the size of a download but not its hash. Here every file's hash is checked once.
"""

import errno
import logging
import re
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from .download import Say, check_space, download, find_cached_folder, is_wanted, remove_orphans
from .listing import fetch_listing
from .model_error import ModelError, first_line
from .outline import outline
from .snapshot import RemoteFile, Snapshot, find_checked_folder
from .weights import describe_others

DEMO = "demo"
"""The name of the bundled toy model."""

Judge = Callable[[Path], object]
"""Raises ModelError for a model that cannot be served; takes a folder that stands for it, without weights."""


def resolve(name: str, say: Say, judge: Judge | None = None) -> Path:
    """Find or fetch the model called `name`; return its folder. Raises ModelError, one line.

    judge: called before weights are downloaded.
    """
    if name == DEMO:
        return _existing_folder(_demo_folder())
    path = _as_path(name)
    if path.is_dir():
        return path
    if not _is_hub_name(name):
        return _existing_folder(path)
    try:
        return _fetch_model(name, say, judge)
    except ModelError:
        raise
    except Exception as error:  # the hub's client raises errors of several HTTP libraries
        raise explain(name, error) from error


def find_local_folder(name: str) -> Path | None:
    """Return the folder of the model called `name` if it is on this machine; ask no hub."""
    if name == DEMO:
        return _demo_folder()
    path = _as_path(name)
    if path.is_dir():
        return path
    if not _is_hub_name(name):
        return None
    return find_checked_folder(_storage(name)) or find_cached_folder(name)


def cached_repos() -> list[str]:
    """Return the names of the models in the hub's cache, whole or in part, in alphabetical order."""
    prefix = repo_folder_name(repo_id="x", repo_type="model").removesuffix("x")
    folders = Path(constants.HF_HUB_CACHE).glob(f"{prefix}*")
    names = (folder.name.removeprefix(prefix).replace("--", "/", 1) for folder in folders)
    return sorted(filter(_is_hub_name, names))


def _as_path(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # a user whom the system does not know, or who has no home
        return Path(name)


def _demo_folder() -> Path:
    return Path(__file__).parents[1] / "demo" / "model"


def _is_hub_name(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.startswith(".")


def _storage(repo: str) -> Path:
    """Return the folder of a model in the hub client's cache."""
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")


def _existing_folder(path: Path) -> Path:
    if path.is_file():
        raise ModelError(f"{path} is a file: a model is a folder with a config.json and model*.safetensors")
    if not path.is_dir():
        raise ModelError(f"no such model folder: {path}")
    return path


def _fetch_model(repo: str, say: Say, judge: Judge | None) -> Path:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    storage = _storage(repo)
    if checked := find_checked_folder(storage):
        return checked
    try:
        snapshot = _list_files(repo, storage)
    except ModelError:
        raise
    except Exception:
        if cached := find_cached_folder(repo):
            say(f"the hub cannot be asked; using the unchecked copy in {cached}")
            return cached
        raise
    remove_orphans(snapshot)
    check_space(snapshot)
    small = [file for file in snapshot.files if not file.has_weights]
    weights = [file for file in snapshot.files if file.has_weights]
    _fetch(snapshot, small, say)
    if judge is not None and snapshot.find_missing(weights):
        _judge_outline(snapshot, judge)
    _fetch(snapshot, weights, say)
    snapshot.write_branch(constants.DEFAULT_REVISION)
    snapshot.write_record()
    return snapshot.folder


def _fetch(snapshot: Snapshot, files: list[RemoteFile], say: Say) -> None:
    """Fetch the files that are missing; check all of them, and fetch those once more that are damaged."""
    for _ in range(2):
        download(snapshot, files, say)
        say(f"checking the hashes of {len(files)} files")
        broken = snapshot.find_broken(files)
        if not broken:
            return
        for file in broken:
            say(f"{file.name} is damaged: fetching it again")
            snapshot.remove(file)
    raise ModelError(f"{snapshot.repo}: {broken[0].name} arrives damaged (its hash is not the hub's)")


def _judge_outline(snapshot: Snapshot, judge: Judge) -> None:
    with outline(snapshot) as folder:
        try:
            judge(folder)
        except ModelError as error:
            raise ModelError(str(error).replace(str(folder), snapshot.repo)) from error


def _list_files(repo: str, storage: Path) -> Snapshot:
    info = fetch_listing(repo)
    siblings = info.siblings or []
    files = tuple(
        RemoteFile(file.rfilename, file.size or 0, file.blob_id or "", file.lfs.sha256 if file.lfs else None)
        for file in siblings
        if is_wanted(file.rfilename)
    )
    if not any(file.name.endswith(".safetensors") for file in files):
        found = describe_others(file.rfilename for file in siblings)
        raise ModelError(f"{repo} on the hub has no model*.safetensors{found}: not a model that MLX can load")
    return Snapshot(repo, info.sha or "", files, storage)


def explain(repo: str, error: Exception) -> ModelError:
    """Put the client's error in one line for the user."""
    if isinstance(error, GatedRepoError):
        return ModelError(f"{repo} is gated: accept its terms on the hub, then set HF_TOKEN")
    if isinstance(error, RepositoryNotFoundError):
        return ModelError(f"no such model on the hub: {repo} (a private one needs HF_TOKEN)")
    if isinstance(error, RevisionNotFoundError | RemoteEntryNotFoundError):
        return ModelError(f"{repo} has changed on the hub since it was looked up; try again")
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
