"""A model's files in the hub client's cache: where they lie, whether they are sound, which were checked.

A record beside the files names those that were checked; once it is written, a start needs no network.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .model_error import ModelError

RECORD = "pensieve-checked.json"

WEIGHTS_SUFFIX = ".safetensors"

MAX_SMALL_BYTES = 200_000_000
"""Bytes of a file without a sha256, which is fetched into memory; the hub has none of a tenth of this."""

GIT_ID = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a model on the hub. Large files carry a sha256, small ones their git object id."""

    name: str
    size: int
    git_id: str
    sha256: str | None

    def __post_init__(self) -> None:
        """Refuse what cannot be a file of a model: its name and hash become paths in the user's cache."""
        hash_is_sound = SHA256.fullmatch(self.sha256) if self.sha256 else GIT_ID.fullmatch(self.git_id)
        is_too_large = not self.sha256 and self.size > MAX_SMALL_BYTES
        if Path(self.name).name != self.name or self.size < 0 or is_too_large or not hash_is_sound:
            raise ModelError(f"the hub describes a file as none can be: {self.name!r}")

    @property
    def blob_name(self) -> str:
        """The file's name in the hub client's cache."""
        return self.sha256 or self.git_id

    @property
    def has_weights(self) -> bool:
        """Whether this is a file of weights, which is large, or one that describes the model."""
        return self.name.endswith(WEIGHTS_SUFFIX)

    def is_sound(self, path: Path) -> bool:
        """Return whether `path` has this file's size and hash."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if self.sha256:
            digest, expected = hashlib.sha256(), self.sha256
        else:
            digest, expected = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False), self.git_id
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest() == expected


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files that one commit of a model has on the hub, and where the client's cache keeps them."""

    repo: str
    commit: str
    files: tuple[RemoteFile, ...]
    storage: Path  # the model's folder in the cache

    def __post_init__(self) -> None:
        """Refuse a commit that is none: its name becomes a path in the user's cache."""
        if not GIT_ID.fullmatch(self.commit):
            raise ModelError(f"the hub names no commit of {self.repo}: {self.commit[:80]!r}")

    @property
    def folder(self) -> Path:
        """The folder of this commit's files, which are links to blobs."""
        return self.storage / "snapshots" / self.commit

    def blob(self, file: RemoteFile) -> Path:
        """Return where the content of `file` lies."""
        return self.storage / "blobs" / file.blob_name

    def find_missing(self, files: Iterable[RemoteFile]) -> list[RemoteFile]:
        """Return those of `files` whose content is not in the cache."""
        return [file for file in files if not self._is_present(file)]

    def _is_present(self, file: RemoteFile) -> bool:
        return self.blob(file).exists() or (self.folder / file.name).exists()

    def link(self, file: RemoteFile) -> None:
        """Give the content of `file`, a blob of the cache, its name in the commit's folder."""
        path, blob = self.folder / file.name, self.blob(file)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # a link to a blob that was removed
        try:
            path.symlink_to(os.path.relpath(blob, path.parent))
        except FileExistsError:  # another process has made the same link
            return
        except OSError:  # a file system without links: the hub's client too keeps the file itself there
            blob.replace(path)

    def find_broken(self, files: Iterable[RemoteFile]) -> list[RemoteFile]:
        """Check the hashes of `files`; return those that are missing or damaged."""
        return [file for file in files if not file.is_sound(self.folder / file.name)]

    def remove(self, file: RemoteFile) -> None:
        """Remove a file and its content."""
        self.blob(file).unlink(missing_ok=True)
        (self.folder / file.name).unlink(missing_ok=True)

    def write_branch(self, branch: str) -> None:
        """Let the hub's client find this commit as `branch` when it is offline."""
        file = self.storage / "refs" / branch
        file.parent.mkdir(parents=True, exist_ok=True)
        _write_atomically(file, self.commit)

    def write_record(self) -> None:
        """Write the record that all files were checked."""
        sizes = {file.name: file.size for file in self.files}
        _write_atomically(self.storage / RECORD, json.dumps({"commit": self.commit, "sizes": sizes}))


def find_checked_folder(storage: Path) -> Path | None:
    """Return the folder that an earlier start has checked, if all its files are still there."""
    try:
        record = json.loads((storage / RECORD).read_text(encoding="utf-8"))
        folder = storage / "snapshots" / str(record["commit"])
        sizes = {folder / name: size for name, size in record["sizes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    whole = all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())
    return folder if sizes and whole else None


def _write_atomically(file: Path, text: str) -> None:
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)
