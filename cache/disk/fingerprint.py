"""The fingerprint of all that decides what KV holds: KV of another model, or in another form, is never read.

The content of the model's files is hashed, not their names and sizes: a file that was changed in place, or
fetched anew under the same name, is another model. Hashing takes a second a gigabyte, once: the hashes are
remembered with each file's device, inode, size and times. The time of an inode's change is among them, which
no program can set back.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections import abc
from pathlib import Path

FORMS = "1"
"""Counted up where other code of this project changes what KV holds for the same tokens."""

PIECE_BYTES = 2**22

MAX_REMEMBERED = 10_000
"""Files whose hashes are remembered."""


def fingerprint_of(model_folder: Path, facts: abc.Mapping[str, str], memo: Path) -> bytes:
    """Return the sha256 of a model's files and of `facts`. Raises OSError where a file cannot be read.

    All files that lie in the folder itself count: weights, config, tokenizer, template.
    facts: what else KV depends on: its type and bits, the pools' layout, the block size, libraries' versions.
    memo: file in a folder of the user's alone that remembers the hashes; it need not exist.
    """
    known = _read_memo(memo)
    found = {}
    lines = [f"forms {FORMS}", *(json.dumps([name, facts[name]]) for name in sorted(facts))]
    for file in _files(model_folder):
        facts_of_file = _identity(file)
        digest = known.get(facts_of_file) or _hash_file(file)
        if _identity(file) == facts_of_file:  # unchanged while it was read
            found[facts_of_file] = digest
        lines.append(json.dumps([file.name, digest]))
    if not found.items() <= known.items():
        _write_memo(memo, known | found)
    return hashlib.sha256("\n".join(lines).encode()).digest()


def identities(model_folder: Path) -> dict[str, str]:
    """Return, by the names of a model's files, what changes when a file does. Raises OSError.

    If it is the same before a model's load and after fingerprint_of(), what was hashed is what was loaded.
    """
    return {file.name: _identity(file) for file in _files(model_folder)}


def _files(model_folder: Path) -> list[Path]:
    return [one for one in sorted(model_folder.iterdir()) if not one.name.startswith(".") and one.is_file()]


def _identity(file: Path) -> str:
    status = file.stat()
    numbers = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return ".".join(map(str, numbers))


def _hash_file(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as opened:
        while piece := opened.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _read_memo(memo: Path) -> dict[str, str]:
    """Return the remembered hashes; none where the file is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(memo.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return {name: digest for name, digest in content.items() if isinstance(digest, str)}
    return {}


def _write_memo(memo: Path, hashes: dict[str, str]) -> None:
    """Replace the file at once. Where it cannot be written, files are hashed again at the next start."""
    newest = dict(list(hashes.items())[-MAX_REMEMBERED:])
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=memo.parent, prefix=".new-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(newest, file)
        os.replace(temporary, memo)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
