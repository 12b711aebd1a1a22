"""A model's files in the hub client's cache: where they lie, whether they are sound, which were checked.

A record beside the files names those that were checked; once it is written, a start needs no network.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

RECORD = "pensieve-checked.json"


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

    @property
    def folder(self) -> Path:
        """The folder of this commit's files, which are links to blobs."""
        return self.storage / "snapshots" / self.commit

    def blob(self, file: RemoteFile) -> Path:
        """Return where the content of `file` lies."""
        return self.storage / "blobs" / file.blob_name

    def find_broken(self) -> list[RemoteFile]:
        """Check all hashes; return the files that are missing or damaged."""
        return [file for file in self.files if not file.is_sound(self.folder / file.name)]

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
